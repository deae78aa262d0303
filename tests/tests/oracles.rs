//! The vendor's own client and a real browser, driven from Python. A fake is trusted only as far as these have driven it.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use common::catalog::Catalog;
use common::config::Vertex;
use common::generation::image::{AspectRatio, MediaType, Role, Size};
use common::id::{CallId, JobId};
use fakes::vertex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tests::{Options, Pipeline};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use worker::providers::{InputPicture, PictureRequest, Providers};

const PHOTO: &[u8] = include_bytes!("../../samples/product.jpg");
const MODEL: &str = "gemini-3-pro-image";
const PROMPT: &str = "the bottle on wet slate, soft window light";
const ART_DIRECTION: &str = "calm, natural, no text";

#[tokio::test]
async fn our_request_equals_the_one_googles_client_sends_field_by_field() {
    let catalog = Catalog::load(None).unwrap();
    let (job, call) = (JobId::new(), CallId::new());
    let inputs = inputs();
    let request = request(&catalog, &inputs, job, call);
    let ours = serde_json::to_value(worker::providers::vertex::body(&request)).unwrap();
    let sent = oracle(&["body"], &asked(job, call)).await;
    assert_eq!(normal(ours), normal(sent["body"].clone()));
    let path = format!(
        "/v1/projects/oracle/locations/global/publishers/google/models/{MODEL}:generateContent"
    );
    assert_eq!(sent["path"], path);
}

#[tokio::test]
async fn googles_client_reads_the_same_picture_that_we_do() {
    let fake = vertex::Vertex::start(vertex::Options::default())
        .await
        .unwrap();
    let (job, call) = (JobId::new(), CallId::new());
    let said = oracle(
        &["--base-url", &fake.base_url(), "generate"],
        &asked(job, call),
    )
    .await;
    assert_eq!(
        (said["finish_reason"].as_str(), said["mime_type"].as_str()),
        (Some("STOP"), Some("image/png")),
        "{said}"
    );
    assert_eq!(
        (said["width"].as_u64(), said["height"].as_u64()),
        (Some(1856), Some(2304)),
        "{said}"
    );
    assert_eq!(said["model_version"], MODEL);
    assert!(
        said["usage"]["total_token_count"].as_u64().unwrap() > 1_000,
        "{said}"
    );

    let catalog = Catalog::load(None).unwrap();
    let providers = Providers::new(&Vertex {
        project: "oracle".to_owned(),
        base_url: Some(fake.base_url()),
        synthetic: true,
    })
    .unwrap();
    let inputs = inputs();
    let answer = providers
        .get("vertex")
        .unwrap()
        .submit(&request(&catalog, &inputs, job, call))
        .await;
    let ours = hex::encode(Sha256::digest(answer.picture.unwrap()));
    assert_eq!(said["sha256"], ours);
    let calls = fake.journal().calls();
    assert_eq!(normal(calls[0].body.clone()), normal(calls[1].body.clone()));
}

#[tokio::test]
async fn googles_client_understands_how_the_fake_fails() {
    let fake = vertex::Vertex::start(vertex::Options::default())
        .await
        .unwrap();
    let met = oracle(&["--base-url", &fake.base_url(), "errors"], &json!({})).await;
    for (name, code, status) in [
        ("throttle", 429, "RESOURCE_EXHAUSTED"),
        ("invalid", 400, "INVALID_ARGUMENT"),
        ("denied", 403, "PERMISSION_DENIED"),
        ("retired", 404, "NOT_FOUND"),
        ("unavailable", 503, "UNAVAILABLE"),
    ] {
        assert_eq!(
            (met[name]["code"].as_i64(), met[name]["status"].as_str()),
            (Some(code), Some(status)),
            "{name}: {}",
            met[name]
        );
    }
    assert_eq!(met["blocked_prompt"]["block_reason"], "PROHIBITED_CONTENT");
    assert_eq!(met["image_safety"]["finish_reason"], "IMAGE_SAFETY");
    assert_eq!(met["no_image"]["finish_reason"], "NO_IMAGE");
}

#[tokio::test]
async fn the_page_makes_a_picture_in_a_real_browser() {
    let pipeline = Pipeline::start_with(Options {
        credits: 1_000,
        ..Options::default()
    })
    .await;
    pipeline.fake.faults().latency(600..=900);
    let folder = tempfile::tempdir().unwrap();
    let photo = root().join("samples/product.jpg");
    let screenshot = folder.path().join("console.png");
    let words = [
        "--base-url",
        &pipeline.url,
        "--key",
        &pipeline.key,
        "--photo",
        photo.to_str().unwrap(),
        "--screenshot",
        screenshot.to_str().unwrap(),
    ];
    let output = python("console_page.py", &words, "").await;
    let says = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{says}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(std::fs::metadata(&screenshot).unwrap().len() > 10_000);
    pipeline.close().await;
}

fn inputs() -> Vec<InputPicture> {
    vec![InputPicture {
        bytes: Bytes::from_static(PHOTO),
        media_type: MediaType::Jpeg,
        role: Role::Product,
    }]
}

fn request<'a>(
    catalog: &'a Catalog,
    inputs: &'a [InputPicture],
    job: JobId,
    call: CallId,
) -> PictureRequest<'a> {
    PictureRequest {
        model: catalog.get(MODEL).unwrap(),
        prompt: PROMPT,
        art_direction: Some(ART_DIRECTION),
        inputs,
        aspect_ratio: AspectRatio::R4x5,
        size: Size::TwoK,
        seed: Some(7),
        job,
        call,
    }
}

/// The same request, for Google's client.
fn asked(job: JobId, call: CallId) -> Value {
    json!({
        "model": MODEL, "prompt": PROMPT, "art_direction": ART_DIRECTION,
        "inputs": [{"media_type": "image/jpeg", "data_base64": STANDARD.encode(PHOTO), "caption": "Product photo:"}],
        "aspect_ratio": "4:5", "size": "2K", "mime_type": "image/png", "seed": 7,
        "labels": {"job": job.to_string(), "call": call.to_string()},
    })
}

/// One spelling for what proto JSON may spell two ways: field names in camel case, bytes in the standard alphabet.
fn normal(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let value = match (name.as_str(), value) {
                    ("data", Value::String(data)) => {
                        let bytes = STANDARD
                            .decode(&data)
                            .or_else(|_| URL_SAFE.decode(&data))
                            .unwrap();
                        Value::String(STANDARD.encode(bytes))
                    }
                    (_, value) => normal(value),
                };
                (
                    if name == "mime_type" {
                        "mimeType".to_owned()
                    } else {
                        name
                    },
                    value,
                )
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(normal).collect(),
        other => other,
    }
}

async fn oracle(words: &[&str], request: &Value) -> Value {
    let output = python("vertex_oracle.py", words, &request.to_string()).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn python(script: &str, words: &[&str], input: &str) -> Output {
    let python = root().join(".venv/bin/python");
    assert!(
        python.exists(),
        "there is no .venv: run `scripts/setup test` (or `make test`, which does)"
    );
    let mut command = Command::new(python);
    command
        .arg(root().join("tests/python").join(script))
        .args(words);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .await
        .unwrap();
    child.wait_with_output().await.unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

//! The vendors' own clients and a real browser, driven from Python. A fake is trusted only as far as these have driven it.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use common::bucket::Address;
use common::catalog::{Catalog, Lane};
use common::config::{self, Config};
use common::generation::image::{AspectRatio, InputRole, MediaType, Size};
use common::id::{CallId, JobId};
use fakes::Fake;
use futures::stream;
use multer::Multipart;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tests::gcs::{self, Gcs};
use tests::s3::S3;
use tests::{Options, Pipeline, contract};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use worker::providers::{Answer, CallRequest, InputImage, Providers, Reply};

const PHOTO: &[u8] = include_bytes!("../../samples/product.jpg");
/// What a call may take.
const TIME: Duration = Duration::from_secs(30);
const PROMPT: &str = "the bottle on wet slate, soft window light";
const ART_DIRECTION: &str = "calm, natural, no text";

/// A way to order a picture: by one of our providers, and by the vendor's own client.
struct Oracle {
    script: &'static str,
    /// What the script calls it.
    api: &'static str,
    /// The model's id in our catalogue.
    model: &'static str,
    thinking: Option<&'static str>,
    photo: bool,
    /// What the client calls the tokens of the input and of the thoughts.
    metered: [&'static str; 2],
}

const VERTEX: Oracle = Oracle {
    script: "google_oracle.py",
    api: "vertex",
    model: "gemini-3-pro-image",
    thinking: Some("HIGH"),
    photo: true,
    metered: ["prompt_token_count", "thoughts_token_count"],
};
const GEMINI: Oracle = Oracle {
    api: "gemini",
    model: "gemini-3-pro-image-developer",
    ..VERTEX
};
const INTERACTIONS: Oracle = Oracle {
    api: "interactions",
    model: "gemini-nano-banana-2.1-background",
    thinking: Some("high"),
    metered: ["total_input_tokens", "total_thought_tokens"],
    ..VERTEX
};
const EDITS: Oracle = Oracle {
    script: "openai_oracle.py",
    api: "edits",
    model: "gpt-image-2",
    thinking: None,
    photo: true,
    metered: ["input_tokens", "thought_tokens"],
};
const GENERATIONS: Oracle = Oracle {
    api: "generations",
    photo: false,
    ..EDITS
};
const EVERYONE: [Oracle; 5] = [VERTEX, GEMINI, INTERACTIONS, GENERATIONS, EDITS];

#[tokio::test]
async fn our_requests_equal_those_the_vendors_clients_send_field_by_field() {
    for oracle in EVERYONE {
        let order = Order::new(&oracle);
        let fake = fake().await;
        fake.faults().plain(true);
        order.ours(&fake).await;
        let heard = order.theirs("body", None).await;

        let (journal, api) = (fake.journal(), oracle.api);
        let call = journal.calls().remove(0);
        assert_eq!((api, &json!(call.path)), (api, &heard["path"]));
        let raw = journal.raw_body(call.number).unwrap();
        let ours = readable(raw).await;
        let raw = STANDARD.decode(heard["body_base64"].as_str().unwrap());
        let mut theirs = readable(raw.unwrap().into()).await;
        if matches!(api, "vertex" | "gemini") {
            theirs = in_camel_case(theirs);
        }
        assert_eq!((api, ours), (api, theirs));
        // As whom: the fakes refuse other credentials, but not both kinds at once.
        let (with, without) = match api {
            "gemini" | "interactions" => ("x-goog-api-key", "authorization"),
            _ => ("authorization", "x-goog-api-key"),
        };
        let headers = &heard["headers"];
        assert!(
            headers[with].is_string() && headers[without].is_null(),
            "{headers}"
        );
    }
}

#[tokio::test]
async fn the_vendors_clients_read_the_same_picture_that_we_do() {
    for oracle in EVERYONE {
        let order = Order::new(&oracle);
        // One each: some answers depend on how many there were before.
        let (ours, theirs) = (fake().await, fake().await);
        // So that work in the background is seen under way.
        theirs.faults().latency(300..=300);
        let answer = order.ours(&ours).await;
        let said = order.theirs("generate", Some(&theirs)).await;

        let picture = hex::encode(Sha256::digest(answer.image.unwrap()));
        assert_eq!(said["sha256"], picture, "{}: {said}", oracle.api);
        let [input, thought] = oracle.metered.map(|name| said["usage"][name].as_i64());
        assert_eq!(
            (input, thought.unwrap_or(0)),
            (Some(answer.tokens.input), answer.tokens.thought),
            "{}: {said}",
            oracle.api
        );
        if oracle.api != "interactions" {
            assert_eq!([&said["width"], &said["height"]], [1856, 2304], "{said}");
        }
        match oracle.api {
            "vertex" | "gemini" => {
                assert_eq!(said["finish_reason"], "STOP");
                assert_eq!(said["mime_type"], "image/png");
                assert_eq!(said["model_version"], "gemini-3-pro-image");
                assert_eq!(said["signed"], true);
            }
            "interactions" => {
                let statuses = said["statuses"].as_array().unwrap();
                let (last, before) = statuses.split_last().unwrap();
                assert_eq!(last, "completed");
                assert!(!before.is_empty() && before.iter().all(|status| status == "in_progress"));
                assert_eq!(said["steps"], json!(["thought", "model_output"]));
                assert_eq!(said["mime_type"], "image/jpeg");
                let ids = said["ids"].as_array().unwrap();
                assert_eq!(ids.len(), 1, "{said}");
                assert!(ids[0].as_str().unwrap().starts_with("v1_"), "{said}");
            }
            _ => {
                assert_eq!(said["size"], "1856x2304");
                assert_eq!(
                    (&said["quality"], &said["output_format"]),
                    (&json!("high"), &json!("png"))
                );
                assert!(
                    said["request_id"].as_str().unwrap().starts_with("req_"),
                    "{said}"
                );
            }
        }
    }
}

#[tokio::test]
async fn googles_client_understands_how_the_fake_fails() {
    for oracle in [VERTEX, GEMINI] {
        let met = Order::new(&oracle)
            .theirs("errors", Some(&fake().await))
            .await;
        for (name, raised, code, status) in [
            ("throttle", "ClientError", 429, "RESOURCE_EXHAUSTED"),
            ("no_quota", "ClientError", 429, "RESOURCE_EXHAUSTED"),
            ("invalid", "ClientError", 400, "INVALID_ARGUMENT"),
            ("unknown_size", "ClientError", 400, "INVALID_ARGUMENT"),
            (
                "failed_precondition",
                "ClientError",
                400,
                "FAILED_PRECONDITION",
            ),
            ("unauthenticated", "ClientError", 401, "UNAUTHENTICATED"),
            ("denied", "ClientError", 403, "PERMISSION_DENIED"),
            ("retired", "ClientError", 404, "NOT_FOUND"),
            ("internal", "ServerError", 500, "INTERNAL"),
            ("unavailable", "ServerError", 503, "UNAVAILABLE"),
            ("deadline", "ServerError", 504, "DEADLINE_EXCEEDED"),
        ] {
            let expected = json!([raised, code, status]);
            assert_eq!(
                fields(&met[name], ["raised", "code", "status"]),
                expected,
                "{name}: {}",
                met[name]
            );
        }
        // Vertex AI does not say how long to wait unless a fault makes it; the Developer API does, in the body.
        let hints = |name: &str| fields(&met[name], ["retry_after", "retry_delay"]);
        let (once, with_hint) = match oracle.api {
            "gemini" => (json!([null, "1s"]), json!([null, "7s"])),
            _ => (json!([null, null]), json!(["7", null])),
        };
        assert_eq!(
            (hints("throttle"), hints("throttle_with_hint")),
            (once, with_hint)
        );
        assert_eq!(met["refused_prompt"]["block_reason"], "PROHIBITED_CONTENT");
        assert_eq!(met["refused_picture"]["finish_reason"], "IMAGE_SAFETY");
        assert_eq!(met["no_image"]["finish_reason"], "NO_IMAGE");
        assert_eq!(met["max_tokens"]["finish_reason"], "MAX_TOKENS");
        assert_eq!(
            met["unknown_reason"]["finish_reason"],
            "A_REASON_FROM_THE_FUTURE"
        );
        for name in ["cut", "not_json", "bad_base64"] {
            assert!(met[name]["raised"].is_string(), "{name}: {}", met[name]);
        }
    }
}

#[tokio::test]
async fn googles_client_understands_how_interactions_fail() {
    let met = Order::new(&INTERACTIONS)
        .theirs("errors", Some(&fake().await))
        .await;
    for (name, raised, code, word) in [
        ("throttle", "RateLimitError", 429, "too_many_requests"),
        ("no_quota", "RateLimitError", 429, "too_many_requests"),
        ("invalid", "BadRequestError", 400, "invalid_request"),
        ("unknown_size", "BadRequestError", 400, "invalid_request"),
        (
            "failed_precondition",
            "BadRequestError",
            400,
            "failed_precondition",
        ),
        ("retired", "NotFoundError", 404, "not_found"),
        ("internal", "InternalServerError", 500, "internal"),
        ("unavailable", "InternalServerError", 503, "unavailable"),
        (
            "poll_unavailable",
            "InternalServerError",
            503,
            "unavailable",
        ),
        ("deadline", "InternalServerError", 504, "deadline_exceeded"),
        ("gone", "NotFoundError", 404, "not_found"),
        ("get_deleted", "NotFoundError", 404, "not_found"),
        ("delete_deleted", "NotFoundError", 404, "not_found"),
        ("cancel_ended", "BadRequestError", 400, "invalid_request"),
    ] {
        let met = &met[name];
        let said = json!([met["raised"], met["code"], met["body"]["error"]["code"]]);
        assert_eq!(said, json!([raised, code, word]), "{name}: {met}");
    }
    // Credentials are looked at by a front end that answers in lists.
    for (name, raised, code, status) in [
        (
            "unauthenticated",
            "AuthenticationError",
            401,
            "UNAUTHENTICATED",
        ),
        ("denied", "PermissionDeniedError", 403, "PERMISSION_DENIED"),
    ] {
        let met = &met[name];
        let said = json!([
            met["raised"],
            met["code"],
            met["body"][0]["error"]["status"]
        ]);
        assert_eq!(said, json!([raised, code, status]), "{name}: {met}");
    }
    let hint = &met["throttle_with_hint"];
    assert_eq!(
        fields(hint, ["retry_after", "retry_delay"]),
        json!(["7", "7s"]),
        "{hint}"
    );

    for (name, status, error) in [
        ("failed", "failed", Some("internal")),
        ("refused_prompt", "failed", Some("content_blocked")),
        ("incomplete", "incomplete", None),
        ("cancelled", "cancelled", None),
        (
            "budget_exceeded",
            "budget_exceeded",
            Some("budget_exceeded"),
        ),
        ("requires_action", "requires_action", None),
        ("text_only", "completed", None),
        ("empty", "completed", None),
        ("cancel", "cancelled", None),
        ("get_cancelled", "cancelled", None),
    ] {
        let met = &met[name];
        let last = met["statuses"]
            .as_array()
            .and_then(|statuses| statuses.last());
        assert_eq!(
            (last, met["errors"][0]["code"].as_str(), &met["sha256"]),
            (Some(&json!(status)), error, &Value::Null),
            "{name}: {met}"
        );
    }
    for name in ["cut", "not_json", "bad_base64"] {
        assert!(met[name]["raised"].is_string(), "{name}: {}", met[name]);
    }
    // The one refusal whose code is a sentence, as captured.
    let filtered = &met["refused_picture"]["errors"][0]["code"];
    assert!(
        filtered.as_str().unwrap().starts_with("Unable to show"),
        "{filtered}"
    );
    assert_eq!(met["delete"], json!({"answer": "None"}));
}

#[tokio::test]
async fn openais_client_understands_how_the_fake_fails() {
    for oracle in [GENERATIONS, EDITS] {
        let met = Order::new(&oracle)
            .theirs("errors", Some(&fake().await))
            .await;
        let none = None::<&str>;
        for (name, raised, status, code, hint) in [
            (
                "throttle",
                "RateLimitError",
                429,
                Some("rate_limit_exceeded"),
                Some("1"),
            ),
            (
                "throttle_with_hint",
                "RateLimitError",
                429,
                Some("rate_limit_exceeded"),
                Some("7"),
            ),
            (
                "no_quota",
                "RateLimitError",
                429,
                Some("insufficient_quota"),
                none,
            ),
            (
                "hard_limit",
                "BadRequestError",
                400,
                Some("billing_hard_limit_reached"),
                none,
            ),
            ("invalid", "BadRequestError", 400, none, none),
            (
                "unknown_size",
                "BadRequestError",
                400,
                Some("invalid_value"),
                none,
            ),
            (
                "refused_prompt",
                "BadRequestError",
                400,
                Some("moderation_blocked"),
                none,
            ),
            (
                "refused_policy",
                "BadRequestError",
                400,
                Some("content_policy_violation"),
                none,
            ),
            (
                "refused_at_length",
                "BadRequestError",
                400,
                Some("content_policy_violation"),
                none,
            ),
            (
                "unauthenticated",
                "AuthenticationError",
                401,
                Some("invalid_api_key"),
                none,
            ),
            ("denied", "PermissionDeniedError", 403, none, none),
            (
                "retired",
                "NotFoundError",
                404,
                Some("model_not_found"),
                none,
            ),
            (
                "internal",
                "InternalServerError",
                500,
                Some("server_error"),
                none,
            ),
            ("bad_gateway", "InternalServerError", 502, none, none),
            ("unavailable", "InternalServerError", 503, none, none),
        ] {
            let met = &met[name];
            let said = fields(met, ["raised", "status", "code", "retry_after"]);
            assert_eq!(said, json!([raised, status, code, hint]), "{name}: {met}");
            assert!(met["request_id"].is_string(), "{name}: {met}");
        }
        assert_eq!(met["unknown_size"]["param"], "size");
        assert_eq!(met["empty"]["pictures"], 0);
        assert_eq!(met["refused_in_200"]["pictures"], 0);
        assert_eq!(met["escaped_slashes"]["pictures"], 1);
        for name in ["cut", "bad_base64"] {
            assert!(met[name]["raised"].is_string(), "{name}: {}", met[name]);
        }
    }
}

#[tokio::test]
async fn the_page_makes_a_picture_in_a_real_browser() {
    the_page_makes_a_picture(None).await;
}

#[tokio::test]
async fn the_page_shows_pictures_that_s3_signs_the_links_to() {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await;
    the_page_makes_a_picture(Some((s3.address(), s3.endpoint()))).await;
    s3.stop().await;
}

#[tokio::test]
async fn the_page_shows_pictures_that_google_signs_the_links_to() {
    let folder = tempfile::tempdir().unwrap();
    let account = folder.path().join("account.json");
    assert!(gcs::oracle("key", &account, "").status.success());
    let gcs = Gcs::start().await;
    let more = [("GOOGLE_SERVICE_ACCOUNT", account.to_str().unwrap())];
    the_page_makes_a_picture(Some((gcs.address("of/ours", &more), gcs.endpoint()))).await;
}

/// In a real browser, with pictures at a store of another origin where one is given.
async fn the_page_makes_a_picture(store: Option<(Address, String)>) {
    let (bucket, store) = store.unzip();
    let pipeline = Pipeline::start_with(Options {
        credits: 1_000,
        bucket,
        ..Options::default()
    })
    .await;
    pipeline.fake.faults().latency(600..=900);
    let folder = tempfile::tempdir().unwrap();
    let photo = root().join("samples/product.jpg");
    let screenshot = folder.path().join("console.png");
    let mut words = vec![
        "--base-url",
        &pipeline.url,
        "--key",
        &pipeline.key,
        "--photo",
        photo.to_str().unwrap(),
        "--screenshot",
        screenshot.to_str().unwrap(),
    ];
    if let Some(origin) = &store {
        words.extend(["--store", origin]);
    }
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

async fn fake() -> Fake {
    Fake::start(fakes::Options::default()).await.unwrap()
}

/// One picture, ordered in both ways.
struct Order<'a> {
    oracle: &'a Oracle,
    catalog: Catalog,
    lane: Lane,
    inputs: Vec<InputImage>,
    job: JobId,
    call: CallId,
}

impl<'a> Order<'a> {
    fn new(oracle: &'a Oracle) -> Self {
        let catalog = Catalog::load(None, None).unwrap();
        let lane = Lane {
            project: Some("oracle".to_owned()),
            ..catalog.get(oracle.model).unwrap().lane().clone()
        };
        let photo = InputImage {
            bytes: Bytes::from_static(PHOTO),
            media_type: MediaType::Jpeg,
            role: InputRole::Product,
        };
        Self {
            oracle,
            catalog,
            lane,
            inputs: oracle.photo.then_some(photo).into_iter().collect(),
            job: JobId::new(),
            call: CallId::new(),
        }
    }

    /// What our provider makes of it.
    async fn ours(&self, fake: &Fake) -> Answer {
        let config = Config {
            providers: config::Providers {
                fake: Some(fake.base_url()),
                ..config::Providers::default()
            },
            ..Config::from_env().unwrap()
        };
        let providers =
            Providers::new(&self.catalog, &config, &worker::memory::within(0, 0)).unwrap();
        let provider = providers.get(&self.lane.provider).unwrap();
        let model = self.catalog.get(self.oracle.model).unwrap();
        let request = CallRequest {
            model,
            lane: &self.lane,
            prompt: PROMPT,
            art_direction: Some(ART_DIRECTION),
            inputs: self.inputs.clone(),
            aspect_ratio: AspectRatio::R4x5,
            size: Size::TwoK,
            seed: model.takes_seed.then_some(7),
            thinking: self.oracle.thinking,
            job: self.job,
            call: self.call,
            timeout: TIME,
            permit: None,
        };
        let mut reply = provider.submit(request).await;
        loop {
            match reply {
                Reply::Answered(answer) => return answer,
                Reply::Operation(operation) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    reply = provider.poll(&self.lane, &operation, TIME).await.unwrap();
                }
            }
        }
    }

    /// What the vendor's client makes of it.
    async fn theirs(&self, mode: &str, fake: Option<&Fake>) -> Value {
        let Oracle { script, api, .. } = *self.oracle;
        let base_url = fake.map(Fake::base_url);
        let mut words = vec![api, mode];
        if let Some(base_url) = &base_url {
            words.extend(["--base-url", base_url]);
        }
        let output = python(script, &words, &self.asked().to_string()).await;
        let trouble = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{api} {mode}: {trouble}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The request, for the vendor's client. Where our words become the vendor's, they are spelt out here once more.
    fn asked(&self) -> Value {
        let model = &self.catalog.get(self.oracle.model).unwrap().name;
        let inputs: Vec<Value> = (self.inputs.iter())
            .map(|input| {
                json!({
                    "media_type": "image/jpeg",
                    "data_base64": STANDARD.encode(&input.bytes),
                    "caption": "Product photo:",
                })
            })
            .collect();
        let mut asked = match self.oracle.script {
            "openai_oracle.py" => {
                let role = if self.oracle.photo {
                    "\n\nPicture 1: Product photo"
                } else {
                    ""
                };
                json!({
                    "prompt": format!("{ART_DIRECTION}\n\n{PROMPT}{role}"),
                    "size": "1856x2304", "quality": "high", "output_format": "png",
                })
            }
            _ => json!({
                "prompt": PROMPT, "art_direction": ART_DIRECTION,
                "aspect_ratio": "4:5", "size": "2K", "seed": 7, "thinking": self.oracle.thinking,
            }),
        };
        asked["model"] = json!(model);
        asked["inputs"] = json!(inputs);
        if self.oracle.api == "vertex" {
            asked["mime_type"] = json!("image/png");
            asked["labels"] = json!({"job": self.job.to_string(), "call": self.call.to_string()});
        }
        asked
    }
}

/// Some fields of an object, as a list.
fn fields<const N: usize>(object: &Value, names: [&str; N]) -> Value {
    names.iter().map(|name| object[name].clone()).collect()
}

/// A body, from JSON or from a form, with a digest in place of each picture.
async fn readable(body: Bytes) -> Value {
    if body.starts_with(b"--") {
        form(body).await
    } else {
        without_pictures(serde_json::from_slice(&body).unwrap())
    }
}

/// The parts of a form: fields by name, for their order says nothing, then files in theirs.
async fn form(body: Bytes) -> Value {
    let first_line = body.split(|&byte| byte == b'\r').next().unwrap();
    let boundary = std::str::from_utf8(&first_line[2..]).unwrap().to_owned();
    let body = stream::iter([Ok::<_, Infallible>(body)]);
    let mut multipart = Multipart::new(body, boundary);
    let (mut texts, mut files) = (Vec::new(), Vec::new());
    while let Some(part) = multipart.next_field().await.unwrap() {
        let name = part.name().unwrap().to_owned();
        let content_type = part.content_type().map(ToString::to_string);
        // What a file is called is everyone's own choice; that it is called something makes it one.
        if part.file_name().is_some() {
            let digest = hex::encode(Sha256::digest(part.bytes().await.unwrap()));
            files.push(json!({"name": name, "content_type": content_type, "sha256": digest}));
        } else {
            texts.push((name, content_type, part.text().await.unwrap()));
        }
    }
    texts.sort();
    json!({"fields": texts, "files": files})
}

/// Base64 is written in two alphabets; a digest is the same for both, and easier to read.
fn without_pictures(value: Value) -> Value {
    match value {
        Value::Object(fields) => (fields.into_iter())
            .map(|(name, value)| match (name.as_str(), value) {
                ("data", Value::String(data)) => {
                    let bytes = STANDARD.decode(&data).or_else(|_| URL_SAFE.decode(&data));
                    (name, hex::encode(Sha256::digest(bytes.unwrap())).into())
                }
                (_, value) => (name, without_pictures(value)),
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(without_pictures).collect(),
        other => other,
    }
}

/// Proto JSON takes names in snake case too, and Google's client sends some.
fn in_camel_case(value: Value) -> Value {
    match value {
        Value::Object(fields) => (fields.into_iter())
            .map(|(name, value)| {
                let mut words = name.split('_');
                let first = words.next().unwrap_or_default().to_owned();
                let name = words.fold(first, |name, word| {
                    let (initial, rest) = word.split_at(1);
                    name + &initial.to_uppercase() + rest
                });
                (name, in_camel_case(value))
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(in_camel_case).collect(),
        other => other,
    }
}

/// A short form of `make contract`.
#[tokio::test]
async fn the_running_api_keeps_its_contract() {
    let pipeline = Pipeline::start_with(Options::in_earnest()).await;
    let words = ["--examples", "3", "--seed", "1"].map(str::to_owned);
    let status = contract::check(&pipeline, 500, &words).await;
    contract::tidy(&pipeline).await;
    pipeline.close().await;
    assert!(status.success(), "{status}");
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

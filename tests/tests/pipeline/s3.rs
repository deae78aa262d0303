//! The product with its bucket in S3.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bucket::Bucket;
use common::verify::deep::{self, Report};
use reqwest::Client;
use secrecy::SecretString;
use serde_json::{Value, json};
use tests::pipeline::small_job;
use tests::s3::{self, S3};
use tests::{Options, Pipeline, processes};

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");

#[tokio::test]
async fn pictures_are_stored_in_s3_and_downloaded() {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await;
    let pipeline = Pipeline::start_with(Options {
        bucket: Some(s3.address()),
        ..Options::default()
    })
    .await;
    let mut body = small_job();
    body["outputs"] = json!(2);
    body["inputs"] =
        json!([{"data": STANDARD.encode(PHOTO), "media_type": "image/jpeg", "role": "product"}]);
    let job = pipeline.ended(&pipeline.submit(&body).await).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let artifacts = job["artifacts"].as_array().unwrap();
    assert_eq!(artifacts.len(), 6, "{job}");
    for artifact in artifacts {
        let bytes = pipeline.download(artifact["url"].as_str().unwrap()).await;
        assert_eq!(artifact["bytes"], bytes.len(), "{artifact}");
    }
    assert_eq!(
        s3.puts(),
        7,
        "an input, two originals, two renditions, two thumbnails"
    );

    let bucket = Bucket::open(&pipeline.config.bucket().unwrap(), SecretString::default()).unwrap();
    let mut findings = Vec::new();
    let tell = |told| {
        if let Report::Finding(finding) = told {
            findings.push(finding);
        }
    };
    let progress = deep::check(&pipeline.reader, &bucket, Duration::ZERO, tell)
        .await
        .unwrap();
    assert_eq!(
        (findings, progress.read, progress.listed),
        (Vec::new(), 6, 7)
    );
    assert_eq!(
        std::fs::read_dir(pipeline.bucket.path()).unwrap().count(),
        0
    );
    pipeline.close().await;
}

/// `platen up`, `doctor` and `verify --deep`, with the bucket set by environment variables.
#[tokio::test]
async fn the_program_stores_its_objects_in_s3() {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(&folder.path().join("s3")).await;
    let data = folder.path().join("data");
    let ready = folder.path().join("ready.json");
    let platen = || {
        let mut platen = processes::platen();
        platen
            .env("PLATEN_BUCKET", format!("s3://{}/of/ours", s3::BUCKET))
            .envs(s3::variables(&s3.endpoint()));
        platen
    };
    let doctor = platen().arg("doctor").output().await.unwrap();
    let said = String::from_utf8(doctor.stdout).unwrap();
    assert!(
        said.contains("ok      bucket: s3://pictures/of/ours can be written"),
        "{said}"
    );

    let mut up = platen();
    up.args(["up", "--port", "0", "--data"])
        .arg(&data)
        .arg("--ready-file")
        .arg(&ready);
    let mut up = up
        .env("PLATEN_METRICS_LISTEN", "127.0.0.1:0")
        .env("PLATEN_LOG", "warn")
        .spawn()
        .unwrap();
    let notice: Value = tokio::time::timeout(Duration::from_mins(1), async {
        loop {
            if let Ok(text) = std::fs::read(&ready) {
                return serde_json::from_slice(&text).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    let client = Client::builder()
        .timeout(Duration::from_mins(1))
        .build()
        .unwrap();
    let job: Value = client
        .post(format!("{}/v1/jobs", notice["api"].as_str().unwrap()))
        .bearer_auth(notice["key"].as_str().unwrap())
        .header("Prefer", "wait=30")
        .json(&small_job())
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(folder.path().join("s3/pictures/of/ours/t").is_dir());
    assert!(!data.join("bucket").exists());
    let verify = platen()
        .args(["verify", "--deep", "--data"])
        .arg(&data)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(verify.stdout).unwrap();
    assert!(
        verify.status.success() && said.contains("3 files are as they were stored"),
        "{said}"
    );
    up.kill().await.unwrap();
}

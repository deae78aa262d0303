//! The same product with its bucket at a store that speaks S3.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::bucket::Bucket;
use common::verify::deep::{self, Told};
use secrecy::SecretString;
use serde_json::json;
use tests::pipeline::small_job;
use tests::s3::S3;
use tests::{Options, Pipeline};

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");

#[tokio::test]
async fn a_picture_is_made_kept_and_shown_with_the_bucket_in_s3() {
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
    assert_eq!(artifacts.len(), 4, "{job}");
    for artifact in artifacts {
        let bytes = pipeline.download(artifact["url"].as_str().unwrap()).await;
        assert_eq!(artifact["bytes"], bytes.len(), "{artifact}");
    }
    assert_eq!(s3.puts(), 5, "an input, two originals, two renditions");

    let bucket = Bucket::open(&pipeline.config.bucket(), SecretString::default()).unwrap();
    let mut findings = Vec::new();
    let tell = |told| {
        if let Told::Finding(finding) = told {
            findings.push(finding);
        }
    };
    let progress = deep::check(&pipeline.reader, &bucket, Duration::ZERO, tell)
        .await
        .unwrap();
    assert_eq!(
        (findings, progress.read, progress.listed),
        (Vec::new(), 4, 5)
    );
    assert_eq!(
        std::fs::read_dir(pipeline.bucket.path()).unwrap().count(),
        0
    );
    pipeline.close().await;
}

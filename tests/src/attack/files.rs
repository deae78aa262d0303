//! Attacks on the bucket: it is removed while processes run, and another one is put in its place.

use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bucket::Address;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::stage::{Stage, answer};
use super::{Case, Outcome};
use crate::fleet::{Process, Role};
use crate::pipeline::small_job;
use crate::wait::try_until;

const PHOTO: &[u8] = include_bytes!("../../../samples/product.jpg");
const JOBS: usize = 12;
const CALLS_TIMEOUT: Duration = Duration::from_secs(20);
const UNREADY_TIMEOUT: Duration = Duration::from_secs(10);
const JOB_TIMEOUT: Duration = Duration::from_mins(1);

/// The attacks on the bucket, in the order in which `make attack` tries them.
pub const CASES: &[Case] = &[
    Case {
        row: "A.1",
        says: "an api and a worker with the bucket of another database",
        attack: |stage| Box::pin(a_foreign_bucket(stage)),
    },
    Case {
        row: "A.1",
        says: "the bucket is unmounted under running jobs, and mounted again",
        attack: |stage| Box::pin(unmounted(stage)),
    },
];

async fn a_foreign_bucket(stage: &Stage) -> Outcome {
    let attacked = stage.processes(&[]).await?;
    let elsewhere = tempfile::tempdir()?;
    let mut orders = stage.real.orders.clone();
    orders.config.bucket = Some(Address::Folder(elsewhere.path().to_owned()));
    for role in [Role::Api, Role::Worker] {
        let mut process = Process::new(role, 9, &orders)?;
        process.start()?;
        let ready = process.ready().await;
        process.kill().await?;
        let said = ready.err().context("it starts on a foreign bucket")?;
        ensure!(said.to_string().contains("bucket"), "{said}");
    }
    let held = attacked.held().await?;
    Ok(format!("neither an api nor a worker starts on it; {held}"))
}

async fn unmounted(stage: &Stage) -> Outcome {
    let rows = &stage.real.pipeline.reader;
    let receipts = async || -> sqlx::Result<i64> {
        let count = "SELECT count(*) FROM deletions WHERE deleted_at IS NOT NULL";
        sqlx::query_scalar(count).fetch_one(rows).await
    };
    let attacked = stage.processes(&[]).await?;
    let owner = stage.tenant(&attacked, 2, 1_000).await?;
    let ephemeral = json!({"inputs": 0});
    let request = owner.request(Method::PUT, "/v1/retention").json(&ephemeral);
    let (status, said) = answer(request).await?;
    ensure!(status == StatusCode::OK, "{status} {said}");

    let (calls, before) = (stage.real.fake.journal().count(), receipts().await?);
    let mut job = small_job();
    job["prompt"] = json!("a bottle [[fault:late:2000]]");
    job["inputs"] =
        json!([{"data": STANDARD.encode(PHOTO), "media_type": "image/jpeg", "role": "product"}]);
    let mut ids = Vec::new();
    for _ in 0..JOBS {
        let (status, job) = owner.post("/v1/jobs", &job).await?;
        ensure!(status == StatusCode::ACCEPTED, "{status} {job}");
        ids.push(job["id"].as_str().unwrap_or_default().to_owned());
    }
    let called = async || Ok((stage.real.fake.journal().count() == calls + JOBS).then_some(()));
    try_until("every job is called for", CALLS_TIMEOUT, called).await?;

    let bucket = stage.real.pipeline.bucket.path();
    let away = bucket.with_extension("away");
    std::fs::rename(bucket, &away)?;
    std::fs::create_dir(bucket)?;
    let readyz = format!("http://{}/readyz", attacked.api.metrics_address());
    let unready = async || {
        let status = reqwest::get(&readyz).await?.status();
        Ok((status == StatusCode::SERVICE_UNAVAILABLE).then_some(()))
    };
    let what = "the api is not ready without its bucket";
    let noticed = try_until(what, UNREADY_TIMEOUT, unready).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let meanwhile = receipts().await? - before;
    let left: Vec<_> = std::fs::read_dir(bucket)?.collect();
    std::fs::remove_dir_all(bucket)?;
    std::fs::rename(&away, bucket)?;
    noticed?;
    ensure!(
        meanwhile == 0,
        "{meanwhile} receipts were written meanwhile"
    );
    ensure!(
        left.is_empty(),
        "{} files were written to the foreign folder",
        left.len()
    );

    for id in &ids {
        let path = format!("/v1/jobs/{id}");
        let ended = async || {
            let (_, job) = owner.get(&path).await?;
            Ok((job["state"] == "succeeded").then_some(()))
        };
        try_until("the job has succeeded", JOB_TIMEOUT, ended).await?;
    }
    let expected = before + i64::try_from(JOBS)?;
    let all = async || Ok((receipts().await? >= expected).then_some(()));
    try_until("every input has its receipt", JOB_TIMEOUT, all).await?;
    let keys = "SELECT object_key FROM deletions WHERE deleted_at IS NOT NULL";
    let keys: Vec<String> = sqlx::query_scalar(keys).fetch_all(rows).await?;
    let still: Vec<&String> = keys
        .iter()
        .filter(|key| bucket.join(key).exists())
        .collect();
    ensure!(
        still.is_empty(),
        "files with receipts are still there: {still:?}"
    );
    let held = attacked.held().await?;
    Ok(format!(
        "0 receipts while it was away, {JOBS} when it was back, no file left; {held}"
    ))
}

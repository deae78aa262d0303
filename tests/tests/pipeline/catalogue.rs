//! Models are data: another table is another model, and its lifecycle dates are enforced.

use reqwest::StatusCode;
use serde_json::{Value, json};
use tests::pipeline::small_job;
use tests::{Options, Pipeline, models};

/// A complete new model.
const NEW_MODEL: &str = r#"
[models.house-style]
name = "gemini-nano-banana-2.1"
title = "House style"
kind = "image"
location = "eu"
sizes = ["1K"]
ratios = ["1:1", "4:5"]
max_inputs = 2
max_input_bytes = 1_000_000
timeout_seconds = 30
announced = 2026-11-01
cost_usd_micros = { 1K = 33_600 }
price = [{ from = 2026-11-01, credits = { 1K = 5 } }]
"#;

async fn with(change: impl FnOnce(&tempfile::TempDir)) -> (Pipeline, tempfile::TempDir) {
    let folder = models::shipped();
    change(&folder);
    let pipeline = Pipeline::start_with(Options {
        models: Some(folder.path().to_owned()),
        ..Options::default()
    })
    .await;
    (pipeline, folder)
}

#[tokio::test]
async fn a_model_is_one_table_in_a_file() {
    let (pipeline, _folder) = with(|folder| models::add(folder, "vertex.toml", NEW_MODEL)).await;
    let (status, model) = pipeline.get("/v1/models/house-style").await;
    assert_eq!(status, StatusCode::OK, "{model}");
    assert_eq!(model["price"]["credits"], json!({"1K": 5}));
    let job = pipeline
        .ended(&pipeline.submit(&model["example"]).await)
        .await;
    assert_eq!(
        (job["state"].as_str(), job["cost"]["captured"].as_i64()),
        (Some("succeeded"), Some(5)),
        "{job}"
    );
    let calls = pipeline.fake.journal().calls();
    assert!(
        calls[0].path.ends_with(
            "/locations/eu/publishers/google/models/gemini-nano-banana-2.1:generateContent"
        ),
        "{}",
        calls[0].path
    );
    pipeline.close().await;
}

#[tokio::test]
async fn a_shut_down_model_names_its_successor() {
    let (pipeline, _folder) = with(|folder| {
        models::change(
            folder,
            "vertex.toml",
            "shut_down = 2027-03-15",
            "shut_down = 2026-11-01",
        );
    })
    .await;
    let mut job = small_job();
    job["model"] = json!("gemini-2.5-flash-image");
    let (status, refused) = pipeline.post("/v1/jobs", &job).await;
    assert!(status.is_client_error(), "{refused}");
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.contains("its successor is gemini-nano-banana-2.1"),
        "{detail}"
    );

    job["switch_to_successor"] = json!(true);
    let (status, quote) = pipeline.post("/v1/jobs?dry_run=true", &job).await;
    assert_eq!(
        (status, quote["cost"]["held"].as_i64()),
        (StatusCode::OK, Some(6)),
        "{quote}"
    );
    let ended: Value = pipeline.ended(&pipeline.submit(&job).await).await;
    assert_eq!(
        (
            ended["model"].as_str(),
            ended["switched_from"].as_str(),
            ended["state"].as_str()
        ),
        (
            Some("gemini-nano-banana-2.1"),
            Some("gemini-2.5-flash-image"),
            Some("succeeded")
        ),
        "{ended}"
    );
    assert_eq!(ended["cost"]["captured"], 6);
    let (_, model) = pipeline.get("/v1/models/gemini-2.5-flash-image").await;
    assert_eq!(model["lifecycle"]["stage"], "shut_down");
    pipeline.close().await;
}

#[tokio::test]
async fn an_open_job_keeps_its_quoted_price() {
    let (mut pipeline, folder) = with(|_| {}).await;
    pipeline.stop_workers().await;
    let id = pipeline.submit(&small_job()).await;
    models::change(
        &folder,
        "vertex.toml",
        "credits = { 1K = 6, 2K = 9 } }",
        "credits = { 1K = 600, 2K = 900 } }",
    );
    pipeline.start_worker().await;
    let ended = pipeline.ended(&id).await;
    assert_eq!(
        (ended["state"].as_str(), ended["cost"]["captured"].as_i64()),
        (Some("succeeded"), Some(6))
    );
    pipeline.close().await;
}

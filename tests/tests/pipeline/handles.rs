//! Operations, which a provider runs in the background: they outlive attempts and workers, and
//! nothing is bought twice.

use std::time::Duration;

use fakes::Fault;
use reqwest::Method;
use serde_json::{Value, json};
use tests::fleet::Role;
use tests::real::Real;
use tests::wait::until_called_once;
use tests::{Options, Pipeline, models};

/// A pipeline in which the timeout of the model is one second.
async fn pipeline() -> (Pipeline, tempfile::TempDir) {
    let folder = models::shipped();
    models::change(
        &folder,
        "interactions.toml",
        "timeout_seconds = 120",
        "timeout_seconds = 1",
    );
    let pipeline = Pipeline::start_with(Options {
        models: Some(folder.path().to_owned()),
        ..Options::default()
    })
    .await;
    (pipeline, folder)
}

fn job(fault: &str) -> Value {
    json!({"model": "gemini-nano-banana-2.1-background", "prompt": format!("a bottle {fault}"), "size": "1K"})
}

async fn outcomes(pipeline: &Pipeline) -> Vec<(String, Option<String>)> {
    sqlx::query_as("SELECT outcome, operation FROM calls ORDER BY id")
        .fetch_all(&pipeline.reader)
        .await
        .unwrap()
}

#[tokio::test]
async fn an_operation_that_ends_after_the_timeout_is_delivered_once() {
    let (pipeline, _folder) = pipeline().await;
    let id = pipeline.submit(&job("[[fault:late:3000]]")).await;
    let ended = pipeline.ended(&id).await;
    assert_eq!(
        (ended["state"].as_str(), ended["cost"]["captured"].as_i64()),
        (Some("succeeded"), Some(6)),
        "{ended}"
    );
    assert!(
        ended["attempts"].as_i64().unwrap() > 1,
        "the job was put back meanwhile: {ended}"
    );
    assert_eq!(pipeline.fake.journal().count(), 1, "calls");
    let calls = outcomes(&pipeline).await;
    assert_eq!(calls.len(), 1);
    assert!(calls[0].0 == "ok" && calls[0].1.is_some(), "{calls:?}");
    assert_eq!(pipeline.balance().await, (994, 0));
    pipeline.close().await;
}

#[tokio::test]
async fn an_endless_operation_is_released_at_the_deadline() {
    let (pipeline, _folder) = pipeline().await;
    let request = pipeline.request(Method::POST, "/v1/jobs");
    let request = request
        .header("Cancel-After", "3s")
        .json(&job("[[fault:never]]"));
    let accepted: Value = request.send().await.unwrap().json().await.unwrap();
    let ended = pipeline.ended(accepted["id"].as_str().unwrap()).await;
    assert_eq!(
        (ended["state"].as_str(), ended["cost"]["released"].as_i64()),
        (Some("expired"), Some(6)),
        "{ended}"
    );
    let calls = outcomes(&pipeline).await;
    assert_eq!((calls.len(), calls[0].0.as_str()), (1, "unknown"));
    let metrics = pipeline.anonymous(
        Method::GET,
        &format!("{}/metrics/billing", pipeline.metrics_url),
    );
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    let labels =
        r#"{model="gemini-nano-banana-2.1-background",outcome="unknown",provider="interactions"}"#;
    for line in [
        format!("platen_provider_calls_total{labels} 1"),
        format!("platen_provider_cost_usd_micros_total{labels} 33600"),
    ] {
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    assert_eq!(pipeline.balance().await, (1_000, 0));
    pipeline.close().await;
}

#[tokio::test]
async fn a_failed_poll_is_repeated_and_a_lost_operation_is_rebought() {
    let (pipeline, _folder) = pipeline().await;
    let polled = pipeline.submit(&job("[[fault:poll:unavailable*3]]")).await;
    assert_eq!(pipeline.ended(&polled).await["state"], "succeeded");
    assert_eq!(pipeline.fake.journal().count(), 1, "calls");
    let lost = pipeline.submit(&job("once more [[fault:gone]]")).await;
    let ended = pipeline.ended(&lost).await;
    assert_eq!(ended["outcome"]["class"], "unknown", "{ended}");
    assert_eq!(ended["cost"]["released"], 6);
    let calls = outcomes(&pipeline).await;
    let classes: Vec<&str> = calls.iter().map(|(class, _)| class.as_str()).collect();
    assert_eq!(classes, ["ok", "unknown", "unknown", "unknown"]);
    pipeline.close().await;
}

#[tokio::test]
async fn a_canceled_job_is_released_while_its_operation_runs() {
    let (pipeline, _folder) = pipeline().await;
    let id = pipeline.submit(&job("[[fault:never]]")).await;
    until_called_once(&pipeline.fake, Duration::from_secs(5)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (_, canceled) = pipeline
        .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
        .await;
    assert_eq!(canceled["state"], "canceled", "{canceled}");
    assert_eq!(pipeline.balance().await, (1_000, 0));
    pipeline
        .until(
            "the outcome of the call is unknown",
            Duration::from_secs(5),
            async || {
                let calls = outcomes(&pipeline).await;
                (calls[0].0 == "unknown").then_some(())
            },
        )
        .await;
    pipeline.close().await;
}

#[tokio::test]
async fn an_operation_is_polled_while_its_lane_is_unavailable() {
    let (pipeline, _folder) = pipeline().await;
    let id = pipeline.submit(&job("[[fault:late:2500]]")).await;
    until_called_once(&pipeline.fake, Duration::from_secs(5)).await;
    pipeline.fake.faults().push(Fault::Status(404));
    let other = pipeline.submit(&job("something else")).await;
    assert_eq!(
        pipeline.ended(&other).await["outcome"]["class"],
        "model_retired"
    );
    let ended = pipeline.ended(&id).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(pipeline.fake.journal().count(), 2, "calls");
    pipeline.close().await;
}

#[tokio::test]
async fn a_stopping_worker_hands_its_operation_back_at_once() {
    let folder = models::shipped();
    let mut pipeline = Pipeline::start_with(Options {
        models: Some(folder.path().to_owned()),
        ..Options::default()
    })
    .await;
    let id = pipeline.submit(&job("[[fault:late:4000]]")).await;
    pipeline
        .until(
            "the operation was polled",
            Duration::from_secs(5),
            async || {
                let polled = pipeline.fake.journal().calls().len() > 2;
                polled.then_some(())
            },
        )
        .await;
    let stopped_at = std::time::Instant::now();
    pipeline.stop_workers().await;
    assert!(
        stopped_at.elapsed() < Duration::from_secs(2),
        "{:?}",
        stopped_at.elapsed()
    );
    assert_eq!(pipeline.job(&id).await["state"], "queued");
    pipeline.start_worker().await;
    let ended = pipeline.ended(&id).await;
    assert_eq!(
        (ended["state"].as_str(), ended["attempts"].as_i64()),
        (Some("succeeded"), Some(2)),
        "{ended}"
    );
    assert_eq!(pipeline.fake.journal().count(), 1, "calls");
    pipeline.close().await;
}

/// Workers are processes here, so that nothing of the first one is left but its rows.
#[tokio::test]
async fn the_next_worker_polls_a_killed_workers_operation() {
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = Real::start(0..=0).await;
    let mut first = orders.start(Role::Worker, 1).await.unwrap();
    let id = pipeline.submit(&job("[[fault:late:6000]]")).await;
    pipeline
        .until(
            "the operation was polled",
            Duration::from_secs(20),
            async || {
                let polled = fake.journal().calls().len() > 2;
                polled.then_some(())
            },
        )
        .await;
    first[0].kill().await.unwrap();
    let mut second = orders.start(Role::Worker, 1).await.unwrap();
    let ended = pipeline.ended(&id).await;
    assert_eq!(
        (
            ended["state"].as_str(),
            ended["attempts"].as_i64(),
            ended["cost"]["captured"].as_i64()
        ),
        (Some("succeeded"), Some(2), Some(6)),
        "{ended}"
    );
    assert_eq!(fake.journal().count(), 1, "calls");
    assert_eq!(outcomes(&pipeline).await.len(), 1);
    second[0].kill().await.unwrap();
    pipeline.close().await;
}

#[tokio::test]
async fn unreadable_and_endless_poll_answers_block_nobody() {
    let (pipeline, _folder) = pipeline().await;
    let unreadable = pipeline.submit(&job("[[fault:poll:not_json]]")).await;
    let ended = pipeline.ended(&unreadable).await;
    assert_eq!(ended["outcome"]["class"], "provider_invalid", "{ended}");
    let request = pipeline.request(Method::POST, "/v1/jobs");
    let request = request
        .header("Cancel-After", "6s")
        .json(&job("[[fault:poll:trickle]]"));
    let accepted: Value = request.send().await.unwrap().json().await.unwrap();
    let ended = pipeline.ended(accepted["id"].as_str().unwrap()).await;
    assert_eq!(ended["state"], "expired", "{ended}");
    assert!(
        ended["attempts"].as_i64().unwrap() > 1,
        "the job was put back meanwhile: {ended}"
    );
    pipeline.close().await;
}

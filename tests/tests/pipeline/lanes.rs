//! A fault on one lane does not affect other lanes.

use std::time::Duration;

use common::config::UnbilledLimits;
use domain::lanes::PauseReason;
use domain::outcome::Class;
use fakes::Fault;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::pipeline::small_job;
use tests::wait::until_called_once;
use tests::{Options, Pipeline, models};

const MODEL: &str = "gemini-nano-banana-2.1";

async fn all_attempts(pipeline: &Pipeline) -> i64 {
    sqlx::query_scalar("SELECT coalesce(sum(fence), 0)::bigint FROM jobs")
        .fetch_one(&pipeline.reader)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_retired_model_is_called_only_once() {
    let folder = models::shipped();
    models::change(
        &folder,
        "vertex.toml",
        "announced = 2026-10-06",
        "announced = 2026-10-06\nsuccessor = \"gemini-3-pro-image\"",
    );
    let pipeline = Pipeline::start_with(Options {
        // Longer than this test runs on any machine, so that no call probes the lane.
        closed: Duration::from_secs(30),
        models: Some(folder.path().to_owned()),
        ..Options::default()
    })
    .await;
    pipeline.fake.faults().rate(1.0, [Fault::Status(404)]);
    let first = pipeline.ended(&pipeline.submit(&small_job()).await).await;
    let ids = join_all((0..20).map(|_| async { pipeline.submit(&small_job()).await })).await;
    let jobs = join_all(ids.iter().map(|id| pipeline.ended(id))).await;
    for job in std::iter::once(&first).chain(&jobs) {
        assert_eq!(
            (job["state"].as_str(), job["outcome"]["class"].as_str()),
            (Some("failed"), Some("model_retired")),
            "{job}"
        );
        assert_eq!(
            job["outcome"]["reason"],
            "The provider no longer offers gemini-nano-banana-2.1. Use gemini-3-pro-image instead. Nothing was charged."
        );
    }
    assert_eq!(pipeline.fake.journal().count(), 1, "calls");
    assert_eq!(
        pipeline.lane(MODEL).await.pause.unwrap().reason,
        PauseReason::Answers(Class::ModelRetired)
    );
    assert_eq!(pipeline.balance().await, (1_000, 0));
    pipeline.close().await;
}

#[tokio::test]
async fn an_outage_opens_the_circuit_and_a_probe_closes_it() {
    let pipeline = Pipeline::start_with(Options {
        closed: Duration::from_secs(5),
        ..Options::default()
    })
    .await;
    pipeline.fake.faults().rate(1.0, [Fault::Status(503)]);
    let ids = join_all((0..12).map(|_| async { pipeline.submit(&small_job()).await })).await;
    pipeline
        .until(
            "the lane is unavailable",
            Duration::from_secs(10),
            async || {
                let pause = pipeline.lane(MODEL).await.pause?;
                (pause.reason == PauseReason::Answers(Class::ProviderFault)).then_some(())
            },
        )
        .await;
    // Calls that were running when the circuit opened may still end.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let (calls, attempts) = (
        pipeline.fake.journal().count(),
        all_attempts(&pipeline).await,
    );
    let waiting = pipeline.submit(&small_job()).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    let job = pipeline.job(&waiting).await;
    assert_eq!(
        (job["state"].as_str(), job["attempts"].as_i64()),
        (Some("queued"), Some(0)),
        "{job}"
    );
    let waiting_for = &job["waiting"];
    assert_eq!(waiting_for["reason"], "lane_unavailable", "{waiting_for}");
    let (since, retry_at) = (
        waiting_for["since"].as_str().unwrap(),
        waiting_for["retry_at"].as_str().unwrap(),
    );
    assert!(since < retry_at, "{waiting_for}");
    let (calls_now, attempts_now) = (
        pipeline.fake.journal().count(),
        all_attempts(&pipeline).await,
    );
    assert!(
        calls_now <= calls + 1 && attempts_now <= attempts + 8,
        "{calls} {calls_now} {attempts} {attempts_now}"
    );

    pipeline.fake.faults().clear();
    let job = pipeline.ended(&waiting).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let ended = join_all(ids.iter().map(|id| pipeline.ended(id))).await;
    let succeeded = ended
        .iter()
        .filter(|job| job["state"] == "succeeded")
        .count();
    // Twelve jobs may make 36 calls. The circuit opens after 8 strikes, and calls in flight still
    // end.
    assert!(succeeded >= 6, "{succeeded} of 12 survived the outage");
    assert!(pipeline.lane(MODEL).await.pause.is_none());
    pipeline.close().await;
}

/// The paths of all calls, in order.
fn paths(pipeline: &Pipeline) -> Vec<String> {
    let calls = pipeline.fake.journal().calls();
    calls.iter().map(|call| call.path.clone()).collect()
}

#[tokio::test]
async fn another_lane_is_used_unless_the_tenant_forbids_it() {
    let folder = models::shipped();
    models::change(
        &folder,
        "vertex.toml",
        "announced = 2026-10-06",
        "announced = 2026-10-06\nfallbacks = [{ location = \"us\" }, { project = \"second\" }]",
    );
    let pipeline = Pipeline::start_with(Options {
        models: Some(folder.path().to_owned()),
        ..Options::default()
    })
    .await;
    let (_, model) = pipeline.get("/v1/models/gemini-nano-banana-2.1").await;
    assert_eq!(
        model["fallbacks"],
        json!([
            "vertex/us/gemini-nano-banana-2.1",
            "vertex:second/global/gemini-nano-banana-2.1"
        ])
    );
    let mut job = small_job();
    job["prompt"] = json!("a bottle [[fault:denied*2]]");
    let ended = pipeline.ended(&pipeline.submit(&job).await).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let called = paths(&pipeline);
    assert!(
        called[0].contains("/projects/synthetic/locations/global/"),
        "{called:?}"
    );
    assert!(
        called[1].contains("/projects/synthetic/locations/us/"),
        "{called:?}"
    );
    assert!(
        called[2].contains("/projects/second/locations/global/"),
        "{called:?}"
    );

    // The first two lanes are unavailable by now.
    job["fallback"] = json!(false);
    let waits = pipeline.submit(&job).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(pipeline.job(&waits).await["state"], "queued");
    let (status, canceled) = pipeline
        .post(&format!("/v1/jobs/{waits}/cancel"), &json!({}))
        .await;
    assert_eq!(status, StatusCode::OK, "{canceled}");
    job["fallback"] = json!(true);
    job["prompt"] = json!("another bottle");
    assert_eq!(
        pipeline.ended(&pipeline.submit(&job).await).await["state"],
        "succeeded"
    );
    assert!(paths(&pipeline)[3].contains("/projects/second/"));
    pipeline.close().await;
}

#[tokio::test]
async fn a_providers_retry_after_is_respected() {
    let pipeline = Pipeline::start().await;
    let job = |prompt: &str| json!({"model": "gpt-image-2", "prompt": prompt, "size": "1K"});
    let throttled = pipeline
        .submit(&job("a bottle [[fault:throttle:1*1]]"))
        .await;
    until_called_once(&pipeline.fake, Duration::from_secs(5)).await;
    let second = pipeline.submit(&job("another bottle")).await;
    let jobs = [
        pipeline.ended(&throttled).await,
        pipeline.ended(&second).await,
    ];
    assert!(
        jobs.iter().all(|job| job["state"] == "succeeded"),
        "{jobs:#?}"
    );
    let calls = pipeline.fake.journal().calls();
    for call in &calls[1..] {
        let waited = call.received_us - calls[0].received_us;
        assert!(waited >= 950_000, "{waited} µs after the hint of a second");
    }
    pipeline.close().await;
}

#[tokio::test]
async fn a_retry_changes_the_seed_and_the_thinking_level() {
    let pipeline = Pipeline::start().await;
    let mut job = small_job();
    job["prompt"] =
        json!("a bottle [[fault:finish:IMAGE_RECITATION*1]] [[fault:finish:MAX_TOKENS*1]]");
    job["seed"] = json!(7);
    let ended = pipeline.ended(&pipeline.submit(&job).await).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let calls = pipeline.fake.journal().calls();
    let config = |number: usize| calls[number].body["generationConfig"].clone();
    let level = |config: &Value| config["thinkingConfig"]["thinkingLevel"].clone();
    assert_eq!(
        (&config(0)["seed"], level(&config(0))),
        (&json!(7), Value::Null)
    );
    assert_ne!(config(1)["seed"], json!(7));
    assert_eq!(level(&config(2)), "MINIMAL");
    pipeline.close().await;
}

#[tokio::test]
async fn a_job_without_calls_left_ends_on_an_unavailable_lane() {
    let pipeline = Pipeline::start().await;
    pipeline.fake.faults().rate(1.0, [Fault::Status(503)]);
    let mut job = small_job();
    job["outputs"] = json!(4);
    let ended = pipeline.ended(&pipeline.submit(&job).await).await;
    assert_eq!(ended["outcome"]["class"], "provider_fault", "{ended}");
    assert_eq!(pipeline.fake.journal().count(), 12, "calls");
    pipeline.close().await;
}

#[tokio::test]
async fn failures_caused_by_a_prompt_are_no_strikes() {
    let pipeline = Pipeline::start().await;
    let mut job = small_job();
    job["outputs"] = json!(4);
    job["prompt"] = json!("a bottle [[fault:finish:IMAGE_OTHER]]");
    let ended = pipeline.ended(&pipeline.submit(&job).await).await;
    assert_eq!(ended["outcome"]["class"], "provider_fault", "{ended}");
    assert!(pipeline.lane(MODEL).await.pause.is_none());
    pipeline.close().await;
}

#[tokio::test]
async fn stored_outputs_are_delivered_though_the_lane_is_unavailable() {
    let folder = models::shipped();
    let pipeline = Pipeline::start_with(Options {
        models: Some(folder.path().to_owned()),
        ..Options::default()
    })
    .await;
    // One of two images is made; then the lane becomes unavailable and stays so.
    pipeline.fake.faults().push(Fault::Status(503));
    pipeline.fake.faults().push(Fault::Late(0));
    pipeline.fake.faults().latency(300..=300);
    let mut job = small_job();
    job["outputs"] = json!(2);
    let request = pipeline.request(Method::POST, "/v1/jobs");
    let request = request.header("Cancel-After", "14s").json(&job);
    let accepted: Value = request.send().await.unwrap().json().await.unwrap();
    // The fake journals a call before it draws its fault. So only an empty fault queue shows that
    // both calls have theirs.
    pipeline
        .until(
            "the provider gave its planned answers",
            Duration::from_secs(5),
            async || pipeline.fake.faults().get().next.is_empty().then_some(()),
        )
        .await;
    pipeline.fake.faults().rate(1.0, [Fault::Status(403)]);
    pipeline.submit(&small_job()).await;
    let ended = pipeline.ended(accepted["id"].as_str().unwrap()).await;
    assert_eq!(
        (ended["state"].as_str(), ended["cost"]["captured"].as_i64()),
        (Some("partial"), Some(6)),
        "{ended}"
    );
    pipeline.close().await;
}

#[tokio::test]
async fn canceled_jobs_release_their_lane() {
    let pipeline = Pipeline::start_with(Options {
        unbilled_limits: UnbilledLimits {
            cancel_allowance: 100,
            ..UnbilledLimits::default()
        },
        ..Options::default()
    })
    .await;
    pipeline.fake.faults().latency(20_000..=20_000);
    let mut job = small_job();
    job["outputs"] = json!(4);
    // As many calls as one tenant may have in flight: 28.
    let ids = join_all((0..7).map(|_| async { pipeline.submit(&job).await })).await;
    pipeline
        .until(
            "the provider was called 28 times",
            Duration::from_secs(10),
            async || (pipeline.fake.journal().count() == 28).then_some(()),
        )
        .await;
    for id in &ids {
        let path = format!("/v1/jobs/{id}/cancel");
        assert_eq!(pipeline.post(&path, &json!({})).await.0, StatusCode::OK);
    }
    pipeline.fake.faults().clear();
    let next = pipeline.submit(&small_job()).await;
    let ended = pipeline.ended_within(&next, Duration::from_secs(10)).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    // Each call releases the lane by itself, some only after the cancel was answered.
    pipeline
        .until("no call is in flight", Duration::from_secs(5), async || {
            (pipeline.lane(MODEL).await.in_flight == 0).then_some(())
        })
        .await;
    pipeline.close().await;
}

/// A catalogue whose [`MODEL`] states its concurrency.
fn with_concurrency(stated: &str) -> tempfile::TempDir {
    let folder = models::shipped();
    models::change(
        &folder,
        "vertex.toml",
        "announced = 2026-10-06",
        &format!("announced = 2026-10-06\n{stated}"),
    );
    folder
}

/// How many calls the provider has under way after `time`, of so many jobs that take longer.
async fn in_flight_after(stated: &str, jobs: usize, time: Duration) -> usize {
    let folder = with_concurrency(stated);
    let pipeline = Pipeline::start_with(Options {
        slots: jobs,
        models: Some(folder.path().to_owned()),
        unbilled_limits: UnbilledLimits {
            cancel_allowance: 100,
            ..UnbilledLimits::default()
        },
        ..Options::default()
    })
    .await;
    pipeline.fake.faults().latency(60_000..=60_000);
    let ids = join_all((0..jobs).map(|_| async { pipeline.submit(&small_job()).await })).await;
    let begun = std::time::Instant::now();
    while begun.elapsed() < time && pipeline.fake.journal().count() < jobs {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let calls = pipeline.fake.journal().count();
    for id in &ids {
        pipeline
            .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
            .await;
    }
    pipeline.close().await;
    calls
}

#[tokio::test]
async fn a_lane_starts_at_the_stated_concurrency() {
    let calls = in_flight_after("concurrency = 60", 48, Duration::from_secs(20)).await;
    assert_eq!(calls, 48, "calls");
}

/// The provider takes all calls and answers none of them yet: no success tells that more may come.
#[tokio::test]
async fn a_lane_that_is_never_refused_doubles_its_limit() {
    let calls = in_flight_after("concurrency = 8", 40, Duration::from_secs(20)).await;
    assert_eq!(calls, 40, "calls");
}

#[tokio::test]
async fn a_lane_never_exceeds_the_stated_maximum() {
    let stated = "concurrency = 8\nmax_concurrency = 16";
    let calls = in_flight_after(stated, 24, Duration::from_secs(5)).await;
    // An eighth is kept for other tenants.
    assert_eq!(calls, 14, "calls");
}

#[tokio::test]
async fn a_backlog_of_one_model_does_not_delay_another() {
    let pipeline = Pipeline::start_with(Options {
        slots: 4,
        ..Options::default()
    })
    .await;
    pipeline.fake.faults().rate(1.0, [Fault::Status(403)]);
    let first = pipeline.ended(&pipeline.submit(&small_job()).await).await;
    assert_eq!(first["outcome"]["class"], "config", "{first}");
    pipeline.fake.faults().clear();
    let waiting = join_all((0..60).map(|_| async { pipeline.submit(&small_job()).await })).await;
    let other = json!({"model": "gpt-image-2", "prompt": "a bottle", "size": "1K"});
    let began = std::time::Instant::now();
    let ended = pipeline.ended(&pipeline.submit(&other).await).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    for id in waiting {
        assert_eq!(pipeline.ended(&id).await["state"], "succeeded");
    }
    pipeline.close().await;
}

#[tokio::test]
async fn a_very_long_finish_reason_is_cut_and_costs_no_extra_calls() {
    let pipeline = Pipeline::start().await;
    let mut job = small_job();
    job["prompt"] = json!(format!("a bottle [[fault:finish:{}]]", "X".repeat(4_200)));
    let ended = pipeline.ended(&pipeline.submit(&job).await).await;
    assert_eq!(ended["outcome"]["class"], "unrecognized", "{ended}");
    assert_eq!(pipeline.fake.journal().count(), 2, "calls");
    pipeline.close().await;
}

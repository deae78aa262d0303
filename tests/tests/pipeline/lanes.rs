//! Trouble at one place where a model is called stays there.

use std::time::Duration;

use common::config::Unpaid;
use common::outcome::Class;
use common::queue::lanes::PauseReason;
use fakes::Fault;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::pipeline::small_job;
use tests::{Options, Pipeline, models};

const MODEL: &str = "gemini-nano-banana-2.1";

async fn attempts(pipeline: &Pipeline) -> i64 {
    sqlx::query_scalar("SELECT coalesce(sum(fence), 0)::bigint FROM jobs")
        .fetch_one(&pipeline.reader)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_model_that_is_gone_is_asked_for_once() {
    let folder = models::shipped();
    models::change(
        &folder,
        "vertex.toml",
        "announced = 2026-10-06",
        "announced = 2026-10-06\nsuccessor = \"gemini-3-pro-image\"",
    );
    let pipeline = Pipeline::start_with(Options {
        // Nobody is to probe it while this test runs, however slow the machine.
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
async fn an_outage_closes_the_lane_and_a_probe_opens_it() {
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
    // What was under way when it closed may still end.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let (calls, taken) = (pipeline.fake.journal().count(), attempts(&pipeline).await);
    let later = small_job();
    let waiting = pipeline.submit(&later).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    let job = pipeline.job(&waiting).await;
    assert_eq!(
        (job["state"].as_str(), job["attempts"].as_i64()),
        (Some("queued"), Some(0)),
        "{job}"
    );
    let told = &job["waiting"];
    assert_eq!(told["reason"], "lane_unavailable", "{told}");
    let (since, retry_at) = (
        told["since"].as_str().unwrap(),
        told["retry_at"].as_str().unwrap(),
    );
    assert!(since < retry_at, "{told}");
    let (calls_now, taken_now) = (pipeline.fake.journal().count(), attempts(&pipeline).await);
    assert!(
        calls_now <= calls + 1 && taken_now <= taken + 8,
        "{calls} {calls_now} {taken} {taken_now}"
    );

    pipeline.fake.faults().clear();
    let job = pipeline.ended(&waiting).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let ended = join_all(ids.iter().map(|id| pipeline.ended(id))).await;
    let saved = ended
        .iter()
        .filter(|job| job["state"] == "succeeded")
        .count();
    // Twelve jobs have 36 calls; the lane closes after 8 strikes and those that were in flight.
    assert!(saved >= 6, "{saved} of 12 outlived the outage");
    assert!(pipeline.lane(MODEL).await.pause.is_none());
    pipeline.close().await;
}

/// Paths of the calls that asked for pictures.
fn paths(pipeline: &Pipeline) -> Vec<String> {
    let calls = pipeline.fake.journal().calls();
    calls.iter().map(|call| call.path.clone()).collect()
}

#[tokio::test]
async fn another_lane_takes_over_unless_the_owner_forbids_it() {
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
    let asked = paths(&pipeline);
    assert!(
        asked[0].contains("/projects/synthetic/locations/global/"),
        "{asked:?}"
    );
    assert!(
        asked[1].contains("/projects/synthetic/locations/us/"),
        "{asked:?}"
    );
    assert!(
        asked[2].contains("/projects/second/locations/global/"),
        "{asked:?}"
    );

    // The first two lanes are closed by now.
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
async fn a_provider_that_names_a_time_is_left_alone_until_then() {
    let pipeline = Pipeline::start().await;
    let job = |prompt: &str| json!({"model": "gpt-image-2", "prompt": prompt, "size": "1K"});
    let throttled = pipeline
        .submit(&job("a bottle [[fault:throttle:1*1]]"))
        .await;
    pipeline
        .until(
            "the provider was called once",
            Duration::from_secs(5),
            async || (pipeline.fake.journal().count() == 1).then_some(()),
        )
        .await;
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
async fn a_job_is_called_for_again_with_what_may_help() {
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
async fn a_job_without_calls_left_ends_though_its_lane_is_closed() {
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
async fn what_a_model_makes_of_a_prompt_is_not_held_against_its_lane() {
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
async fn what_is_made_is_delivered_before_the_deadline_though_the_lane_is_closed() {
    let folder = models::shipped();
    let pipeline = Pipeline::start_with(Options {
        models: Some(folder.path().to_owned()),
        ..Options::default()
    })
    .await;
    // Of two pictures one is made; then the lane closes for good.
    pipeline.fake.faults().push(Fault::Status(503));
    pipeline.fake.faults().push(Fault::Late(0));
    pipeline.fake.faults().latency(300..=300);
    let mut job = small_job();
    job["outputs"] = json!(2);
    let request = pipeline.request(Method::POST, "/v1/jobs");
    let request = request.header("Cancel-After", "14s").json(&job);
    let accepted: Value = request.send().await.unwrap().json().await.unwrap();
    // A call is in the journal before its fault is drawn: only the empty queue says that both calls have theirs.
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
async fn canceled_jobs_leave_their_lane() {
    let pipeline = Pipeline::start_with(Options {
        unpaid: Unpaid {
            cancel_allowance: 100,
            ..Unpaid::default()
        },
        ..Options::default()
    })
    .await;
    pipeline.fake.faults().latency(20_000..=20_000);
    let mut job = small_job();
    job["outputs"] = json!(4);
    // As many calls as one tenant may have at once.
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
    // Each tells its lane by itself, some of them after the answer to the cancel.
    pipeline
        .until("no call is in flight", Duration::from_secs(5), async || {
            (pipeline.lane(MODEL).await.in_flight == 0).then_some(())
        })
        .await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_backlog_of_one_model_does_not_hide_another() {
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
async fn a_provider_that_talks_too_much_is_cut_short_and_paid_no_oftener() {
    let pipeline = Pipeline::start().await;
    let mut job = small_job();
    job["prompt"] = json!(format!("a bottle [[fault:finish:{}]]", "X".repeat(4_200)));
    let ended = pipeline.ended(&pipeline.submit(&job).await).await;
    assert_eq!(ended["outcome"]["class"], "unrecognized", "{ended}");
    assert_eq!(pipeline.fake.journal().count(), 2, "calls");
    pipeline.close().await;
}

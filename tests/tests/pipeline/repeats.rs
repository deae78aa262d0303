//! Idempotency: a repeated request gets the first answer, and makes no second job.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::{Connection, Executor};
use tests::pipeline::small_job;
use tests::{Options, Pipeline};

async fn submit(
    pipeline: &Pipeline,
    key: &str,
    body: &serde_json::Value,
) -> (StatusCode, bool, Vec<u8>) {
    let response = pipeline
        .request(Method::POST, "/v1/jobs")
        .header("idempotency-key", key)
        .json(body)
        .send()
        .await
        .unwrap();
    let replayed = response
        .headers()
        .get("idempotent-replayed")
        .is_some_and(|value| value == "true");
    (
        response.status(),
        replayed,
        response.bytes().await.unwrap().to_vec(),
    )
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_byte_for_byte() {
    let pipeline = Pipeline::start().await;
    let (status, replayed, first) = submit(&pipeline, "order-1", &small_job()).await;
    assert_eq!((status, replayed), (StatusCode::ACCEPTED, false));
    let (status, replayed, second) = submit(&pipeline, "order-1", &small_job()).await;
    assert_eq!((status, replayed), (StatusCode::ACCEPTED, true));
    assert_eq!(first, second);

    let mut other = small_job();
    other["prompt"] = json!("something else");
    let (status, _, problem) = submit(&pipeline, "order-1", &other).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(String::from_utf8_lossy(&problem).contains("idempotency_key_reused"));

    let job: serde_json::Value = serde_json::from_slice(&first).unwrap();
    pipeline.ended(job["id"].as_str().unwrap()).await;
    assert_eq!(pipeline.balance().await, (994, 0));
    pipeline.close().await;
}

/// Stored answers are deleted after their time, the oldest first and in small steps. Jobs stay, and every invariant holds throughout.
#[tokio::test]
async fn a_stored_answer_is_deleted_after_its_time() {
    let mut pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let (_, _, old) = submit(&pipeline, "of-yesterday", &small_job()).await;
    let (_, _, new) = submit(&pipeline, "of-today", &small_job()).await;
    let mut owner = pipeline.owner().await;
    // As if 25 hours had passed. Triggers forbid changing a job's time, so they are turned off.
    owner
        .execute(
            "SET session_replication_role = replica;
             UPDATE jobs SET created_at = created_at - interval '25 hours' WHERE id = (SELECT min(id::text)::uuid FROM jobs);
             UPDATE idempotency_keys SET created_at = created_at - interval '25 hours' WHERE key = 'of-yesterday';
             INSERT INTO idempotency_keys (tenant_id, key, request_hash, status, location, body, created_at)
             SELECT tenant_id, 'of an upload, ' || n, sha256('x'), 201, '/v1/uploads/upl_' || n, '', now() - interval '24 hours' - n * interval '10 seconds'
             FROM wallets, generate_series(1, 2500) n",
        )
        .await
        .unwrap();
    owner.close().await.unwrap();
    pipeline.start_worker().await;
    let kept = "SELECT key FROM idempotency_keys ORDER BY key";
    pipeline
        .until(
            "only the answer of today is kept",
            Duration::from_secs(20),
            async || {
                let kept: Vec<String> = sqlx::query_scalar(kept)
                    .fetch_all(&pipeline.reader)
                    .await
                    .unwrap();
                // Every invariant holds at every moment: no younger answer is deleted before an older one.
                let findings = common::verify::verify(&pipeline.reader).await.unwrap();
                assert_eq!(findings, []);
                (kept == ["of-today"]).then_some(())
            },
        )
        .await;

    let (status, replayed, again) = submit(&pipeline, "of-today", &small_job()).await;
    assert_eq!((status, replayed), (StatusCode::ACCEPTED, true));
    assert_eq!(again, new);
    let (status, replayed, another) = submit(&pipeline, "of-yesterday", &small_job()).await;
    assert_eq!((status, replayed), (StatusCode::ACCEPTED, false));
    let mut ids = std::collections::BTreeSet::new();
    for job in [&old, &new, &another] {
        let job: serde_json::Value = serde_json::from_slice(job).unwrap();
        let id = job["id"].as_str().unwrap();
        assert_eq!(pipeline.ended(id).await["state"], "succeeded");
        ids.insert(id.to_owned());
    }
    assert_eq!(ids.len(), 3, "after its time the same request is a new job");
    assert_eq!(pipeline.balance().await, (1_000 - 3 * 6, 0));
    pipeline.close().await;
}

#[tokio::test]
async fn twenty_repeats_at_once_are_one_job() {
    let pipeline = Pipeline::start().await;
    let body = small_job();
    let clicks = (0..20).map(|_| submit(&pipeline, "double-click", &body));
    let answers = futures::future::join_all(clicks).await;
    assert!(
        answers
            .iter()
            .all(|(status, _, bytes)| *status == StatusCode::ACCEPTED && *bytes == answers[0].2),
        "{answers:?}"
    );
    assert_eq!(
        answers.iter().filter(|(_, replayed, _)| !replayed).count(),
        1
    );
    let job: serde_json::Value = serde_json::from_slice(&answers[0].2).unwrap();
    pipeline.ended(job["id"].as_str().unwrap()).await;
    assert_eq!(pipeline.fake.journal().count(), 1);
    pipeline.close().await;
}

#[tokio::test]
async fn concurrent_submits_never_overdraw_a_wallet() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        credits: 600,
        ..Options::default()
    })
    .await;
    let body = small_job();
    let submits = (0..200).map(|_| pipeline.post("/v1/jobs", &body));
    let answers = futures::future::join_all(submits).await;
    let with = |wanted: StatusCode| {
        answers
            .iter()
            .filter(|(status, _)| *status == wanted)
            .count()
    };
    assert_eq!(
        (
            with(StatusCode::ACCEPTED),
            with(StatusCode::PAYMENT_REQUIRED)
        ),
        (100, 100),
        "{answers:?}"
    );
    assert_eq!(pipeline.balance().await, (0, 600));
    for (_, job) in answers
        .iter()
        .filter(|(status, _)| *status == StatusCode::ACCEPTED)
    {
        pipeline
            .post(
                &format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap()),
                &json!({}),
            )
            .await;
    }
    assert_eq!(pipeline.balance().await, (600, 0));
    pipeline.close().await;
}

/// One run of the task deletes all answers whose time is over, however many there are.
#[tokio::test]
async fn one_run_deletes_all_answers_whose_time_is_over() {
    let mut pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let mut owner = pipeline.owner().await;
    let old = "INSERT INTO idempotency_keys (tenant_id, key, request_hash, status, body, created_at)
        SELECT tenant_id, 'old ' || n, sha256('x'), 200, 'x', now() - interval '25 hours' - n * interval '1 millisecond'
        FROM wallets, generate_series(1, 25000) n";
    owner.execute(old).await.unwrap();
    owner.close().await.unwrap();
    // There is no second run during the test.
    pipeline.config.timing.prune_every = Duration::from_hours(1);
    pipeline.start_worker().await;
    pipeline
        .until(
            "every answer is deleted",
            Duration::from_secs(40),
            async || {
                let left: i64 = sqlx::query_scalar("SELECT count(*) FROM idempotency_keys")
                    .fetch_one(&pipeline.reader)
                    .await
                    .unwrap();
                (left == 0).then_some(())
            },
        )
        .await;
    pipeline.close().await;
}

//! Workers that die, or stop for longer than their lease, and what becomes of their running calls.

use std::time::Duration;

use domain::call::original_key;
use domain::id::{CallId, JobId};
use domain::outcome::{Class, Failure};
use fakes::Fake;
use nix::sys::signal::Signal;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, PgConnection};
use storage::calls;
use tests::fleet::{Process, Role};
use tests::pipeline::small_job;
use tests::proxy::{Proxy, Weather};
use tests::real::Real;
use tests::{Options, Pipeline};

async fn without_workers() -> Pipeline {
    Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await
}

/// Adds a call of the first attempt to a queued job; `ended`: given up as `unknown`.
async fn add_call(pipeline: &Pipeline, job: JobId, operation: Option<&str>, ended: bool) -> CallId {
    let call = CallId::new();
    let lane = "vertex/global/gemini-nano-banana-2.1";
    sqlx::query(
        "WITH job AS (UPDATE jobs SET fence = fence + 1, calls_started = calls_started + 1 WHERE id = $2 RETURNING id, tenant_id, fence)
         INSERT INTO calls (id, tenant_id, job_id, fence, output_idx, provider, model, lane, operation, ended_at, outcome)
         SELECT $1, tenant_id, id, fence, 0, 'vertex', 'gemini-nano-banana-2.1', $3, $4,
                CASE WHEN $5 THEN now() END, CASE WHEN $5 THEN 'unknown' END FROM job",
    )
    .bind(call.0)
    .bind(job.0)
    .bind(lane)
    .bind(operation)
    .bind(ended)
    .execute(&mut pipeline.owner().await)
    .await
    .unwrap();
    call
}

/// The worker lived on and stored the original after its call was given up. An image is adopted;
/// anything else is bought again.
#[tokio::test]
async fn an_image_stored_after_its_call_was_given_up_is_adopted() {
    let mut pipeline = Pipeline::start().await;
    pipeline.ended(&pipeline.submit(&small_job()).await).await;
    let folder = pipeline
        .bucket
        .path()
        .join(format!("t/{}/c", pipeline.tenant.0));
    let original = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap();
    let picture = std::fs::read(original.path()).unwrap();
    pipeline.stop_workers().await;
    let mut jobs = Vec::new();
    for bytes in [&picture[..], b"not a picture"] {
        let id = pipeline.submit(&small_job()).await;
        let call = add_call(&pipeline, id.parse().unwrap(), None, true).await;
        let key = original_key(pipeline.tenant, call);
        std::fs::write(pipeline.bucket.path().join(&key), bytes).unwrap();
        jobs.push((id, call, key));
    }
    pipeline.start_worker().await;
    for (id, ..) in &jobs {
        let ended = pipeline.ended(id).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
    }
    assert_eq!(pipeline.fake.journal().count(), 2, "calls");
    let (_, call, key) = &jobs[0];
    let named: Option<String> =
        sqlx::query_scalar("SELECT object_key FROM calls WHERE id = $1 AND outcome = 'ok'")
            .bind(call.0)
            .fetch_one(&pipeline.reader)
            .await
            .unwrap();
    assert_eq!(named.as_ref(), Some(key));
    pipeline.close().await;
}

#[tokio::test]
async fn only_the_jobs_holder_gives_up_a_call_that_is_unchanged() {
    let pipeline = without_workers().await;
    let id: JobId = pipeline.submit(&small_job()).await.parse().unwrap();
    let call = add_call(&pipeline, id, None, false).await;
    let mut owner = pipeline.owner().await;
    sqlx::query("UPDATE jobs SET state = 'running', fence = fence + 1, worker = 'a worker', lease_until = now() + interval '1 minute' WHERE id = $1")
        .bind(id.0)
        .execute(&mut owner)
        .await
        .unwrap();
    let lost = Failure::new(Class::Unknown, "lost");
    let mut journal = calls::of_job(&mut owner, id).await.unwrap();
    let read = journal.remove(0);
    let record_lost = async |fence, connection: &mut PgConnection| {
        calls::record_lost(connection, id, fence, &read, &lost)
            .await
            .unwrap()
    };
    assert!(
        !record_lost(1, &mut owner).await.has_changed(),
        "under a stale fence"
    );
    calls::record_operation(&mut owner, call, "a handle")
        .await
        .unwrap()
        .required()
        .unwrap();
    assert!(
        !record_lost(2, &mut owner).await.has_changed(),
        "although its operation was stored meanwhile"
    );
    sqlx::query("UPDATE calls SET operation = NULL")
        .execute(&mut owner)
        .await
        .unwrap();
    assert!(record_lost(2, &mut owner).await.has_changed());
    owner.close().await.unwrap();
    let (_, canceled) = pipeline
        .post(&format!("/v1/jobs/{id}/cancel"), &serde_json::json!({}))
        .await;
    assert_eq!(canceled["state"], "canceled");
    pipeline.close().await;
}

/// Waits until `count` calls were made.
async fn wait_for_calls(pipeline: &Pipeline, fake: &Fake, count: usize) {
    pipeline
        .until(
            "the provider was called as often as expected",
            Duration::from_secs(20),
            async || (fake.journal().count() == count).then_some(()),
        )
        .await;
}

/// A worker is suspended during its call for longer than its lease, and then resumed. The other
/// attempt's result stands, whatever the first worker does with its late answer.
#[tokio::test]
async fn a_worker_that_resumes_after_its_lease_changes_nothing() {
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = Real::start(1_500..=1_500).await;
    let mut zombie = Process::new(Role::Worker, 1, &orders).unwrap();
    zombie.start().unwrap();
    let id = pipeline.submit(&small_job()).await;
    wait_for_calls(&pipeline, &fake, 1).await;
    zombie.signal(Signal::SIGSTOP).unwrap();
    let mut living = Process::new(Role::Worker, 2, &orders).unwrap();
    living.start().unwrap();
    wait_for_calls(&pipeline, &fake, 2).await;
    zombie.signal(Signal::SIGCONT).unwrap();
    let ended = pipeline.ended(&id).await;
    assert_eq!(
        (ended["state"].as_str(), ended["attempts"].as_i64()),
        (Some("succeeded"), Some(2)),
        "{ended}"
    );
    // Gives the resumed worker time to do harm.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(zombie.ended().is_none(), "it goes on with other work");
    assert_eq!(fake.journal().count(), 2, "calls");
    assert_eq!(pipeline.balance().await, (994, 0));
    for worker in [&mut zombie, &mut living] {
        worker.kill().await.unwrap();
    }
    pipeline.close().await;
}

/// Three workers die of the same job: it is given up, and other jobs run.
#[tokio::test]
async fn a_job_that_kills_its_workers_is_given_up_and_released() {
    let Real {
        pipeline,
        fake,
        mut orders,
        folders: _folders,
    } = Real::start(0..=0).await;
    let deadly = ("PLATEN_TEST_FAILPOINTS", "generate:after_claim=abort");
    orders.environment.push((deadly.0.into(), deadly.1.into()));
    let id = pipeline.submit(&small_job()).await;
    let mut worker = Process::new(Role::Worker, 1, &orders).unwrap();
    for _ in 0..3 {
        worker.start().unwrap();
        pipeline
            .until(
                "the worker has ended",
                Duration::from_secs(20),
                async || worker.ended().map(drop),
            )
            .await;
    }
    worker.forget(deadly.0);
    worker.start().unwrap();
    let other = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.ended(&other).await["state"], "succeeded");
    let ended = pipeline.ended(&id).await;
    assert_eq!(
        (
            ended["state"].as_str(),
            ended["outcome"]["class"].as_str(),
            ended["cost"]["released"].as_i64()
        ),
        (Some("failed"), Some("poison"), Some(6)),
        "{ended}"
    );
    assert_eq!(fake.journal().count(), 1, "calls");
    worker.kill().await.unwrap();
    pipeline.close().await;
}

/// The database is unreachable for longer than a lease, so every lease has run out afterwards. The
/// workers live, so their jobs must not be reaped.
#[tokio::test]
async fn no_call_is_paid_twice_after_a_database_outage() {
    const JOBS: usize = 24;
    let Real {
        pipeline,
        fake,
        mut orders,
        folders: _folders,
    } = Real::start(6_000..=8_000).await;
    let (proxy, url) = Proxy::before(
        pipeline
            .config
            .database_url
            .as_ref()
            .unwrap()
            .expose_secret(),
    )
    .await
    .unwrap();
    orders.config.database_url = Some(SecretString::from(url));
    orders.config.slots = JOBS / 2;
    let mut workers = orders.start(Role::Worker, 2).await.unwrap();
    let mut jobs = Vec::new();
    for _ in 0..JOBS {
        jobs.push(pipeline.submit(&small_job()).await);
    }
    wait_for_calls(&pipeline, &fake, JOBS).await;
    proxy.set(Weather::Refuse);
    tokio::time::sleep(orders.config.timing.lease + Duration::from_secs(2)).await;
    proxy.set(Weather::Fair);
    for id in &jobs {
        let ended = pipeline.ended(id).await;
        assert_eq!(
            (ended["state"].as_str(), ended["attempts"].as_i64()),
            (Some("succeeded"), Some(1)),
            "{ended}"
        );
    }
    assert_eq!(fake.journal().count(), JOBS, "calls");
    for worker in &mut workers {
        worker.kill().await.unwrap();
    }
    pipeline.close().await;
}

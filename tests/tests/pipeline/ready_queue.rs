//! Redis may be emptied, hold wrong entries or be unavailable: no job is lost, and none is run
//! twice.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use domain::id::JobId;
use futures::future::join_all;
use redis::AsyncCommands;
use serde_json::json;
use tests::pipeline::small_job;
use tests::proxy::{Proxy, Weather};
use tests::rotation::Rotating;
use tests::servers::{TestServers, connect_to_redis};
use tests::{Options, Pipeline};

async fn redis_of(pipeline: &Pipeline) -> redis::aio::MultiplexedConnection {
    connect_to_redis(&pipeline.servers.redis_url).await
}

#[tokio::test]
async fn an_emptied_ready_queue_is_refilled_within_two_seconds() {
    let mut pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(pipeline.submit(&small_job()).await);
    }
    let queue_key = format!("{}:ring", pipeline.database);
    let mut redis = redis_of(&pipeline).await;
    let _emptied: i64 = redis.del(&queue_key).await.unwrap();
    pipeline.start_worker().await;
    let started = Instant::now();
    pipeline
        .until(
            "the provider was called",
            Duration::from_secs(2),
            async || (pipeline.fake.journal().count() > 0).then_some(()),
        )
        .await;
    for id in &ids {
        assert_eq!(pipeline.ended(id).await["state"], "succeeded");
    }
    assert_eq!(
        pipeline.fake.journal().count(),
        20,
        "after {:?}",
        started.elapsed()
    );
    pipeline.close().await;
}

#[tokio::test]
async fn repeated_and_invalid_queue_entries_are_harmless() {
    let pipeline = Pipeline::start().await;
    let id = pipeline.submit(&small_job()).await;
    let mut redis = redis_of(&pipeline).await;
    let queue_key = format!("{}:ring", pipeline.database);
    for score in 0..30 {
        let _added: i64 = redis.zadd(&queue_key, &id, score).await.unwrap();
        let _added: i64 = redis
            .zadd(&queue_key, JobId::new().to_string(), score)
            .await
            .unwrap();
        let _added: i64 = redis.zadd(&queue_key, "not an id", score).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(pipeline.ended(&id).await["state"], "succeeded");
    assert_eq!(pipeline.fake.journal().count(), 1);
    // The worker still works after invalid entries.
    assert_eq!(
        pipeline.ended(&pipeline.submit(&small_job()).await).await["state"],
        "succeeded"
    );
    pipeline.close().await;
}

#[tokio::test]
async fn redis_holds_job_ids_and_nothing_else() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let mut body = small_job();
    body["prompt"] = json!("canary-in-a-prompt");
    let id = pipeline.submit(&body).await;
    let mut redis = redis_of(&pipeline).await;
    let queue_key = format!("{}:ring", pipeline.database);
    let members: Vec<String> = pipeline
        .until(
            "the ready queue has members",
            Duration::from_secs(2),
            async || {
                let members: Vec<String> = redis.clone().zrange(&queue_key, 0, -1).await.unwrap();
                (!members.is_empty()).then_some(members)
            },
        )
        .await;
    assert_eq!(members, std::slice::from_ref(&id));
    let mut keys: Vec<String> = redis
        .keys(format!("{}:*", pipeline.database))
        .await
        .unwrap();
    keys.sort();
    // An api checks every second whether it may write.
    keys.retain(|key| !key.ends_with(":check"));
    let lanes = format!("{}:lanes", pipeline.database);
    assert_eq!(keys, [lanes.clone(), queue_key]);
    let lanes: HashMap<String, String> = redis.hgetall(&lanes).await.unwrap();
    assert!(!format!("{lanes:?}").contains("canary"), "{lanes:?}");
    pipeline
        .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
        .await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_quiet_tenant_goes_ahead_of_a_busy_tenants_backlog() {
    let mut pipeline = Pipeline::start_with(Options {
        workers: 0,
        slots: 1,
        ..Options::default()
    })
    .await;
    // All at once: a job's place in the queue depends on its tenant's earlier submits.
    let busy = join_all((0..15).map(|_| async { pipeline.submit(&small_job()).await })).await;
    let (_, key) = pipeline.add_tenant(100).await;
    let response = pipeline
        .anonymous(reqwest::Method::POST, "/v1/jobs")
        .bearer_auth(&key)
        .json(&small_job())
        .send()
        .await
        .unwrap();
    let quiet: serde_json::Value = response.json().await.unwrap();
    pipeline.start_worker().await;
    for id in &busy {
        pipeline.ended(id).await;
    }
    let order: Vec<String> = pipeline
        .fake
        .journal()
        .calls()
        .iter()
        .map(|call| call.labels["job"].clone())
        .collect();
    let place = order
        .iter()
        .position(|id| id == quiet["id"].as_str().unwrap())
        .unwrap();
    assert!(place < 8, "the quiet tenant was number {place}");
    pipeline.close().await;
}

#[tokio::test]
async fn two_workers_share_the_jobs_and_run_none_twice() {
    let pipeline = Pipeline::start_with(Options {
        workers: 2,
        slots: 4,
        ..Options::default()
    })
    .await;
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(pipeline.submit(&small_job()).await);
    }
    for id in &ids {
        assert_eq!(pipeline.ended(id).await["attempts"], 1);
    }
    assert_eq!(pipeline.fake.journal().count(), 30);
    pipeline.close().await;
}

#[tokio::test]
async fn jobs_accepted_without_redis_start_when_it_returns() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = servers::Redis::start(folder.path()).await.unwrap();
    let mut servers = TestServers::get().await;
    servers.redis_url = redis.url();
    let pipeline = Pipeline::start_on(servers, Options::default()).await;
    assert_eq!(
        pipeline.ended(&pipeline.submit(&small_job()).await).await["state"],
        "succeeded"
    );

    redis.crash().await;
    let started = Instant::now();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(pipeline.submit(&small_job()).await);
    }
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "submits must not wait for Redis: {:?}",
        started.elapsed()
    );
    // Jobs are read from Postgres only after three seconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(pipeline.fake.journal().count(), 1);

    redis.start_again().await.unwrap();
    for id in &ids {
        assert_eq!(pipeline.ended(id).await["state"], "succeeded");
    }
    assert_eq!(pipeline.fake.journal().count(), 6);
    pipeline.close().await;
    redis.stop().await;
}

#[tokio::test]
async fn jobs_run_without_redis() {
    let pipeline = Pipeline::start_with(Options {
        redis: Some("redis://127.0.0.1:1".to_owned()),
        ..Options::default()
    })
    .await;
    let ids = join_all((0..12).map(|_| async { pipeline.submit(&small_job()).await })).await;
    for id in &ids {
        assert_eq!(pipeline.ended(id).await["state"], "succeeded");
    }
    assert_eq!(pipeline.fake.journal().count(), 12, "calls");
    pipeline.close().await;
}

/// Redis takes commands and does not answer, so each costs a second; few may be sent.
#[tokio::test]
async fn jobs_start_soon_while_redis_hangs() {
    let servers = TestServers::get().await;
    let (redis, url) = Proxy::before(&servers.redis_url).await.unwrap();
    let pipeline = Pipeline::start_with(Options {
        redis: Some(url),
        ..Options::default()
    })
    .await;
    pipeline.ended(&pipeline.submit(&small_job()).await).await;
    redis.set(Weather::Silence);
    let id = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.ended(&id).await["state"], "succeeded");
    let waited = "SELECT max(extract(epoch FROM started_at - created_at))::float8 FROM jobs";
    let waited: f64 = sqlx::query_scalar(waited)
        .fetch_one(&pipeline.reader)
        .await
        .unwrap();
    assert!(waited < 5.5, "it began after {waited:.1} s");

    let started = Instant::now();
    let ids = join_all((0..40).map(|_| async { pipeline.submit(&small_job()).await })).await;
    for id in &ids {
        assert_eq!(pipeline.ended(id).await["state"], "succeeded");
    }
    let took = started.elapsed().as_secs_f64();
    assert!(took < 10.0, "forty jobs took {took:.1} s");
    redis.set(Weather::Fair);
    assert_eq!(pipeline.fake.journal().count(), 42, "calls");
    pipeline.close().await;
}

/// The password changes under load, and the file with the URL follows late. No process is
/// restarted.
#[tokio::test]
async fn redis_is_used_again_after_each_password_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let redis = servers::Redis::start(folder.path()).await.unwrap();
    let mut servers = TestServers::get().await;
    servers.redis_url = redis.url();
    let file = folder.path().join("redis.url");
    let mut rotating = Rotating::new(&redis.url(), &redis.url(), &file).await;
    let pipeline = Pipeline::start_on(
        servers,
        Options {
            redis_url_file: Some(file),
            ..Options::default()
        },
    )
    .await;
    pipeline.ended(&pipeline.submit(&small_job()).await).await;
    let mut ids = Vec::new();
    for late in [500, 1_700, 3_000].map(Duration::from_millis) {
        let before = rotating.connections().await;
        rotating.rotate().await;
        let rotated = Instant::now();
        while rotated.elapsed() < late {
            ids.push(pipeline.submit(&small_job()).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (status, readiness) = pipeline.get("/readyz").await;
        assert_eq!(status, reqwest::StatusCode::OK, "{readiness}");
        let problem = readiness["problems"][0].as_str().unwrap();
        assert!(problem.contains("rejects the login"), "{readiness}");
        let metrics = pipeline.anonymous(
            reqwest::Method::GET,
            &format!("{}/metrics", pipeline.metrics_url),
        );
        let metrics = metrics.send().await.unwrap().text().await.unwrap();
        assert!(
            metrics.contains("platen_redis_trouble{reason=\"password\"} 1"),
            "{metrics}"
        );

        rotating.tell();
        let told_at = Instant::now();
        while !(rotating.serves(1, 1).await
            && pipeline.get("/readyz").await.1["problems"].is_null())
        {
            // `make redis-away` checks the limit of five seconds.
            assert!(
                told_at.elapsed() < Duration::from_secs(10),
                "Redis is still unavailable"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Three clients (the api, the worker and its pop) each connect a few times per second.
        let connected = rotating.connections().await - before;
        assert!(connected <= 60, "{connected} connections after {late:?}");
    }
    let last = pipeline.submit(&small_job()).await;
    for id in ids.iter().chain([&last]) {
        assert_eq!(pipeline.ended(id).await["state"], "succeeded");
    }
    pipeline.close().await;
    redis.stop().await;
}

/// The problem is named while it lasts, and is gone as soon as Redis works again.
#[tokio::test]
async fn readiness_says_why_redis_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = servers::Redis::start(folder.path()).await.unwrap();
    let mut servers = TestServers::get().await;
    servers.redis_url = redis.url();
    let pipeline = Pipeline::start_on(servers, Options::default()).await;
    let url = redis.url();
    let command = async |words: &str| {
        let mut admin = connect_to_redis(&url).await;
        let mut sent = redis::Cmd::new();
        sent.arg(words.split(' ').collect::<Vec<_>>());
        let () = sent.query_async(&mut admin).await.unwrap();
    };
    let problem_is = async |expected: Option<&str>| {
        pipeline
            .until(
                "the readiness tells the problem",
                Duration::from_secs(10),
                async || {
                    let (status, readiness) = pipeline.get("/readyz?verbose").await;
                    assert_eq!(status, reqwest::StatusCode::OK, "{readiness}");
                    let problem = readiness["dependencies"][1]["problem"].as_str();
                    let matches = match (expected, problem) {
                        (Some(expected), Some(problem)) => problem.contains(expected),
                        (expected, problem) => expected == problem,
                    };
                    matches.then_some(())
                },
            )
            .await;
    };
    problem_is(None).await;
    command("CONFIG SET maxmemory 1").await;
    problem_is(Some("no memory left")).await;
    // Redis answers but takes no writes, so the job starts from Postgres.
    let id = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.ended(&id).await["state"], "succeeded");
    command("CONFIG SET maxmemory 0").await;
    problem_is(None).await;
    command("REPLICAOF 127.0.0.1 1").await;
    problem_is(Some("replica")).await;
    command("REPLICAOF NO ONE").await;
    problem_is(None).await;
    redis.crash().await;
    problem_is(Some("no process listens")).await;
    redis.start_again().await.unwrap();
    problem_is(None).await;
    let id = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.ended(&id).await["state"], "succeeded");
    pipeline.close().await;
    redis.stop().await;
}

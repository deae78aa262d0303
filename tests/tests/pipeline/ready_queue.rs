//! Redis may be emptied, wrong or away; nothing is lost and nothing is made twice.

use std::time::{Duration, Instant};

use common::id::JobId;
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
async fn a_ring_that_was_emptied_heals_within_two_seconds() {
    let mut pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(pipeline.submit(&small_job()).await);
    }
    let ring = format!("{}:ring", pipeline.database);
    let mut redis = redis_of(&pipeline).await;
    let _emptied: i64 = redis.del(&ring).await.unwrap();
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
async fn repeated_and_senseless_rings_are_harmless() {
    let pipeline = Pipeline::start().await;
    let id = pipeline.submit(&small_job()).await;
    let mut redis = redis_of(&pipeline).await;
    let ring = format!("{}:ring", pipeline.database);
    for turn in 0..30 {
        let _added: i64 = redis.zadd(&ring, &id, turn).await.unwrap();
        let _added: i64 = redis
            .zadd(&ring, JobId::new().to_string(), turn)
            .await
            .unwrap();
        let _added: i64 = redis.zadd(&ring, "not an id", turn).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(pipeline.ended(&id).await["state"], "succeeded");
    assert_eq!(pipeline.fake.journal().count(), 1);
    // Whatever was rung, the worker still works.
    assert_eq!(
        pipeline.ended(&pipeline.submit(&small_job()).await).await["state"],
        "succeeded"
    );
    pipeline.close().await;
}

#[tokio::test]
async fn redis_holds_ids_and_nothing_else() {
    let pipeline = Pipeline::start_with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    let mut body = small_job();
    body["prompt"] = json!("canary-in-a-prompt");
    let id = pipeline.submit(&body).await;
    let mut redis = redis_of(&pipeline).await;
    let ring = format!("{}:ring", pipeline.database);
    let members: Vec<String> = pipeline
        .until(
            "the ready queue has members",
            Duration::from_secs(2),
            async || {
                let members: Vec<String> = redis.clone().zrange(&ring, 0, -1).await.unwrap();
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
    // An api asks every second whether it may write.
    keys.retain(|key| !key.ends_with(":check"));
    let fresh = format!("{}:fresh", pipeline.database);
    assert_eq!(keys, [fresh.clone(), ring]);
    let members: Vec<String> = redis.zrange(&fresh, 0, -1).await.unwrap();
    assert_eq!(members, std::slice::from_ref(&id));
    pipeline
        .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
        .await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_quiet_tenant_goes_before_the_backlog_of_a_busy_one() {
    let mut pipeline = Pipeline::start_with(Options {
        workers: 0,
        slots: 1,
        ..Options::default()
    })
    .await;
    // At once, for turns are times.
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
async fn two_workers_share_the_work_and_do_none_of_it_twice() {
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
async fn without_redis_jobs_are_accepted_and_start_when_it_is_back() {
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
    // Postgres is asked after three seconds.
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

/// It takes what is said and does not answer: a question to it costs a second, and few are asked.
#[tokio::test]
async fn jobs_run_soon_though_redis_hangs() {
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

/// The password is changed under load, and the file that names Redis follows late. Nobody restarts anything.
#[tokio::test]
async fn redis_comes_back_after_each_rotation_of_its_password() {
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
        assert!(problem.contains("does not accept the login"), "{readiness}");
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
        let told = Instant::now();
        while !(rotating.serves(1, 1).await
            && pipeline.get("/readyz").await.1["problems"].is_null())
        {
            // `make redis-away` holds it to five.
            assert!(
                told.elapsed() < Duration::from_secs(10),
                "Redis is away still"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The api's, the worker's and that of its pop, each dialled a few times in a second.
        let dialled = rotating.connections().await - before;
        assert!(dialled <= 60, "{dialled} connections after {late:?}");
    }
    let soon = pipeline.submit(&small_job()).await;
    for id in ids.iter().chain([&soon]) {
        assert_eq!(pipeline.ended(id).await["state"], "succeeded");
    }
    pipeline.close().await;
    redis.stop().await;
}

/// What is wrong is told, whatever it is; and Redis is well as soon as that is over.
#[tokio::test]
async fn why_redis_is_away_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = servers::Redis::start(folder.path()).await.unwrap();
    let mut servers = TestServers::get().await;
    servers.redis_url = redis.url();
    let pipeline = Pipeline::start_on(servers, Options::default()).await;
    let url = redis.url();
    let say = async |words: &str| {
        let mut admin = connect_to_redis(&url).await;
        let mut command = redis::Cmd::new();
        command.arg(words.split(' ').collect::<Vec<_>>());
        let () = command.query_async(&mut admin).await.unwrap();
    };
    let told = async |words: Option<&str>| {
        pipeline
            .until(
                "the readiness tells the problem",
                Duration::from_secs(10),
                async || {
                    let (status, readiness) = pipeline.get("/readyz?verbose").await;
                    assert_eq!(status, reqwest::StatusCode::OK, "{readiness}");
                    let problem = readiness["dependencies"][1]["problem"].as_str();
                    let fits = match (words, problem) {
                        (Some(words), Some(problem)) => problem.contains(words),
                        (words, problem) => words == problem,
                    };
                    fits.then_some(())
                },
            )
            .await;
    };
    told(None).await;
    say("CONFIG SET maxmemory 1").await;
    told(Some("no memory left")).await;
    // It answers, and takes no writes: jobs are taken from Postgres.
    let id = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.ended(&id).await["state"], "succeeded");
    say("CONFIG SET maxmemory 0").await;
    told(None).await;
    say("REPLICAOF 127.0.0.1 1").await;
    told(Some("replica")).await;
    say("REPLICAOF NO ONE").await;
    told(None).await;
    redis.crash().await;
    told(Some("nobody listens")).await;
    redis.start_again().await.unwrap();
    told(None).await;
    let id = pipeline.submit(&small_job()).await;
    assert_eq!(pipeline.ended(&id).await["state"], "succeeded");
    pipeline.close().await;
    redis.stop().await;
}

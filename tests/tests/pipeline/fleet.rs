//! Real processes come and go, and the job is done.

use std::time::Duration;

use nix::sys::signal::Signal;
use redis::AsyncCommands;
use secrecy::ExposeSecret;
use serde_json::Value;
use tests::fleet::{Process, Role};
use tests::pipeline::small_job;
use tests::proxy::{Proxy, Weather};
use tests::real::Real;
use tests::servers::connect_to_redis;
use tests::wait::until_called_once;

#[tokio::test]
async fn a_worker_that_is_frozen_killed_and_stopped_comes_back_where_it_was() {
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = Real::start(500..=500).await;
    let mut workers = orders.start(Role::Worker, 1).await.unwrap();
    let worker = &mut workers[0];
    let address = worker.metrics_address();
    let id = pipeline.submit(&small_job()).await;
    until_called_once(&fake, Duration::from_secs(10)).await;

    worker.signal(Signal::SIGSTOP).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    worker.signal(Signal::SIGCONT).unwrap();
    worker.kill().await.unwrap();
    worker.start().unwrap();
    worker.ready().await.unwrap();
    let ended = pipeline.ended(&id).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(fake.journal().labelled("job", &id).len(), 2, "calls");

    let again = pipeline.submit(&small_job()).await;
    pipeline.ended(&again).await;
    let ended = worker.stop().await.unwrap();
    assert!(ended.success(), "{ended}; {}", worker.last_words());
    assert_eq!(worker.metrics_address(), address);
    pipeline.close().await;
}

/// As after a failover whose old server vanished: nobody tells that the connections are gone.
#[tokio::test]
async fn connections_to_postgres_that_are_half_open_for_ever_hold_nobody_up_for_long() {
    let Real {
        pipeline,
        fake,
        mut orders,
        folders: _folders,
    } = Real::start(500..=500).await;
    let database = orders.config.database_url.unwrap();
    let (proxy, through) = Proxy::before(database.expose_secret()).await.unwrap();
    orders.config.database_url = Some(through.into());
    let apis = orders.start(Role::Api, 1).await.unwrap();
    let workers = orders.start(Role::Worker, 2).await.unwrap();
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    let submit = async |key: &str| {
        let request = client.post(format!("http://{}/v1/jobs", apis[0].address()));
        let request = request.bearer_auth(&pipeline.key);
        let request = request.header("Idempotency-Key", key).json(&small_job());
        let answer: Value = request.send().await.ok()?.json().await.ok()?;
        Some(answer["id"].as_str()?.to_owned())
    };

    // At every moment of a job's life, and of a statement's: on a slow network most are under way.
    proxy.set(Weather::Delay(Duration::from_millis(30)));
    let mut jobs = Vec::new();
    let mut forgotten = None;
    for job in 0..8 {
        if job == 5 {
            forgotten = Some(proxy.forget());
        }
        let key = format!("bottle-{job}");
        let accepted = async || submit(&key).await;
        jobs.push(
            pipeline
                .until("the submit is accepted", Duration::from_mins(1), accepted)
                .await,
        );
    }
    for id in jobs {
        let ended = pipeline.ended_within(&id, Duration::from_mins(1)).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
    }
    assert!(fake.journal().count() >= 8);
    drop((apis, workers, forgotten));
    pipeline.close().await;
}

/// The same with Redis: its limits on lanes must hold again, and its rings be heard, without a restart.
#[tokio::test]
async fn connections_to_redis_that_are_half_open_for_ever_are_made_again() {
    let Real {
        pipeline,
        fake: _fake,
        mut orders,
        folders: _folders,
    } = Real::start(500..=500).await;
    let redis = orders.config.redis_url.unwrap();
    let (proxy, through) = Proxy::before(redis.expose_secret()).await.unwrap();
    orders.config.redis_url = Some(through.into());
    let workers = orders.start(Role::Worker, 1).await.unwrap();
    let first = pipeline.submit(&small_job()).await;
    pipeline.ended(&first).await;

    proxy.set(Weather::Delay(Duration::from_millis(30)));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let forgotten = proxy.forget();
    // What a worker says of itself is forgotten after three seconds.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut connection = connect_to_redis(&pipeline.servers.redis_url).await;
    let target = format!("{}:target", pipeline.database);
    let announced = async || {
        let there: bool = connection.exists(&target).await.unwrap();
        there.then_some(())
    };
    pipeline
        .until(
            "the id of the job is in Redis",
            Duration::from_secs(5),
            announced,
        )
        .await;
    let second = pipeline.submit(&small_job()).await;
    pipeline.ended(&second).await;
    drop((workers, forgotten));
    pipeline.close().await;
}

/// Whoever asks for readiness learns it first; what is counted while stopping is told, and what runs ends.
#[tokio::test]
async fn a_process_that_is_asked_to_stop_says_so_first_and_ends_what_runs() {
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = Real::start(2_000..=2_000).await;
    let mut apis = orders.start(Role::Api, 1).await.unwrap();
    let mut workers = orders.start(Role::Worker, 1).await.unwrap();
    let id = pipeline.submit(&small_job()).await;
    until_called_once(&fake, Duration::from_secs(10)).await;

    let status = async |process: &Process, path: &str| {
        let url = format!("http://{}{path}", process.metrics_address());
        reqwest::get(url).await.unwrap().status().as_u16()
    };
    for process in apis.iter().chain(&workers) {
        assert_eq!(status(process, "/readyz").await, 200, "{}", process.name);
        process.signal(Signal::SIGTERM).unwrap();
        let stopping = async || (status(process, "/readyz").await == 503).then_some(());
        pipeline
            .until(
                "the process says that it stops",
                Duration::from_secs(1),
                stopping,
            )
            .await;
        assert_eq!(status(process, "/metrics").await, 200, "{}", process.name);
        assert_eq!(status(process, "/livez").await, 200, "{}", process.name);
    }
    for process in apis.iter_mut().chain(&mut workers) {
        let ended = process.wait().await.unwrap();
        assert!(ended.success(), "{ended}; {}", process.last_words());
    }
    assert_eq!(pipeline.job(&id).await["state"], "succeeded");
    assert_eq!(fake.journal().count(), 1, "calls");
    pipeline.close().await;
}

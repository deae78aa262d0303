//! The roll-up that billing metrics read.

use std::time::Duration;

use common::money::billing;
use fakes::Switches;
use serde_json::json;
use tests::fleet::{Process, Role};
use tests::pipeline::small_job;
use tests::real::Real;
use tests::{Pipeline, scraped};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Whoever folds, and whenever: what is told stays the same, and nothing is counted twice.
#[tokio::test]
async fn folding_changes_nothing_that_is_told() {
    let pipeline = Pipeline::start().await;
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let pool = storage::database::connect(&url, storage::database::DatabaseRole::Worker, 4)
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let mut folders = JoinSet::new();
    for _ in 0..3 {
        let (pool, stop) = (pool.clone(), stop.clone());
        folders.spawn(async move {
            while !stop.is_cancelled() {
                storage::billing::fold(&pool, i64::MIN).await.unwrap();
            }
        });
    }
    let mut jobs = Vec::new();
    for number in 0..20 {
        let mut body = small_job();
        if number % 4 == 0 {
            body["prompt"] = json!("forbidden");
        }
        jobs.push(pipeline.submit(&body).await);
        let wrong = common::verify::verify(&pipeline.reader).await.unwrap();
        assert_eq!(wrong, [], "while jobs run and folders fold");
    }
    for id in &jobs {
        pipeline.ended(id).await;
    }
    stop.cancel();
    while let Some(folded) = folders.join_next().await {
        folded.unwrap();
    }
    storage::billing::fold(&pool, i64::MIN).await.unwrap();
    let lines: i64 = sqlx::query_scalar("SELECT count(*) FROM billing_lines")
        .fetch_one(&pipeline.reader)
        .await
        .unwrap();
    assert_eq!(lines, 0);
    let told = billing::read(&pipeline.reader).await.unwrap();
    let ended: i64 = told.jobs.iter().map(|jobs| jobs.count).sum();
    let captured: i64 = told.jobs.iter().map(|jobs| jobs.captured).sum();
    assert_eq!((ended, captured), (20, 15 * 6));
    pool.close().await;
    pipeline.close().await;
}

/// Apis and workers are killed, stopped, added and taken away, and every api tells the same, which is what the ledger says.
#[tokio::test]
async fn what_is_scraped_equals_the_ledger_though_processes_come_and_go() {
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = Real::start(50..=400).await;
    fake.faults().set(Switches {
        rate: 0.1,
        among: vec!["unavailable".parse().unwrap(), "empty".parse().unwrap()],
        ..fake.faults().get()
    });
    let mut apis = orders.start(Role::Api, 1).await.unwrap();
    let mut workers = orders.start(Role::Worker, 1).await.unwrap();
    let submit = async |prompt: &str, outputs: usize| {
        for _ in 0..8 {
            let body = json!({"model": "gemini-nano-banana-2.1", "prompt": prompt, "size": "1K", "outputs": outputs});
            pipeline.submit(&body).await;
        }
    };
    submit("a bottle", 1).await;
    for (role, processes) in [(Role::Api, &mut apis), (Role::Worker, &mut workers)] {
        for number in 2..=3 {
            let mut more = Process::new(role, number, &orders).unwrap();
            more.start().unwrap();
            more.ready().await.unwrap();
            processes.push(more);
        }
    }
    submit("a bottle", 2).await;
    workers[0].kill().await.unwrap();
    apis[0].kill().await.unwrap();
    submit("forbidden", 1).await;
    assert!(workers[1].stop().await.unwrap().success());
    for process in [&mut workers[0], &mut apis[0]] {
        process.start().unwrap();
        process.ready().await.unwrap();
    }
    submit("a bottle", 1).await;
    assert!(apis[2].stop().await.unwrap().success());
    apis.truncate(2);
    assert!(
        pipeline.drained(Duration::from_mins(1)).await,
        "jobs are open"
    );

    for api in &apis {
        let address = api.metrics_address();
        let differences = scraped::differences(&pipeline.reader, address).await;
        assert_eq!(differences.unwrap(), Vec::<String>::new());
    }
    let unrecorded = scraped::unrecorded(&pipeline.reader, &fake.journal()).await;
    assert_eq!(unrecorded.unwrap(), Vec::<String>::new());
    drop((apis, workers));
    pipeline.close().await;
}

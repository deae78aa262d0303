//! The roll-up that billing metrics read.

use common::{billing, verify};
use serde_json::json;
use tests::Pipeline;
use tests::pipeline::small_job;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Whoever folds, and whenever: what is told stays the same, and nothing is counted twice.
#[tokio::test]
async fn folding_changes_nothing_that_is_told() {
    let pipeline = Pipeline::start().await;
    let url = pipeline.servers.runtime_url(&pipeline.database);
    let pool = common::database::connect(&url, common::database::Role::Worker, 4)
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let mut folders = JoinSet::new();
    for _ in 0..3 {
        let (pool, stop) = (pool.clone(), stop.clone());
        folders.spawn(async move {
            while !stop.is_cancelled() {
                billing::store::fold(&pool).await.unwrap();
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
        let wrong = verify::verify(&pipeline.reader).await.unwrap();
        assert_eq!(wrong, [], "while jobs run and folders fold");
    }
    for id in &jobs {
        pipeline.ended(id).await;
    }
    stop.cancel();
    while let Some(folded) = folders.join_next().await {
        folded.unwrap();
    }
    billing::store::fold(&pool).await.unwrap();
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

//! Jobs of one tenant are settled together: each gets a result of its own, and none disturbs the others.

use common::settlement::{self, Delivery, SettlementResult};
use domain::id::JobId;
use domain::job::State;
use domain::outcome::{Class, Failure};
use futures::future::join_all;
use tests::pipeline::small_job;
use tests::plain_jobs::PlainWorker;
use tests::{Options, Pipeline};

const JOBS: usize = 6;

/// A pipeline without workers, and what was made for jobs of its tenant.
async fn made() -> (Pipeline, PlainWorker, Vec<Delivery>) {
    let options = Options {
        credits: 10_000,
        workers: 0,
        ..Options::default()
    };
    let pipeline = Pipeline::start_with(options).await;
    let worker = PlainWorker::start(&pipeline, 4).await;
    let mut deliveries = Vec::new();
    for _ in 0..JOBS {
        let job: JobId = pipeline.submit(&small_job()).await.parse().unwrap();
        deliveries.push(worker.make(job).await.unwrap());
    }
    (pipeline, worker, deliveries)
}

/// How many transactions have booked captures and releases. All lines of a transaction have the same time.
async fn settling_transactions(pipeline: &Pipeline) -> i64 {
    let count = "SELECT count(DISTINCT at) FROM transfers WHERE kind IN ('capture', 'release')";
    sqlx::query_scalar(count)
        .fetch_one(&pipeline.reader)
        .await
        .unwrap()
}

/// Settles jobs of the pipeline's tenant together.
async fn settle(worker: &PlainWorker, deliveries: &[Delivery]) -> Vec<String> {
    let tenant = deliveries[0].lease.tenant;
    let results = settlement::deliver_all(&worker.pool, tenant, deliveries).await;
    let text = |result| match result {
        Ok(result) => format!("{result:?}"),
        Err(error) => format!("{error}"),
    };
    results.into_iter().map(text).collect()
}

async fn close(pipeline: Pipeline, worker: PlainWorker) {
    worker.pool.close().await;
    pipeline.close().await;
}

#[tokio::test]
async fn jobs_are_settled_in_one_transaction() {
    let (pipeline, worker, mut deliveries) = made().await;
    let failure = Failure::new(Class::NoOutput, "the answer has no image");
    deliveries[1] = Delivery::nothing(deliveries[1].lease, failure);
    let results = settle(&worker, &deliveries).await;
    let mut expected = vec!["Ended(Succeeded)"; JOBS];
    expected[1] = "Ended(Failed)";
    assert_eq!(results, expected);
    assert_eq!(settling_transactions(&pipeline).await, 1);
    // A worker that was not told tries again.
    let expected: Vec<_> = (expected.iter())
        .map(|ended| ended.replace("Ended", "AlreadyEnded"))
        .collect();
    assert_eq!(settle(&worker, &deliveries).await, expected);
    close(pipeline, worker).await;
}

#[tokio::test]
async fn a_lost_lease_does_not_disturb_the_others() {
    let (pipeline, worker, made) = made().await;
    let mut deliveries = made.clone();
    deliveries[2].lease.fence += 1;
    deliveries[4].lease.job = JobId::new();
    let results = settle(&worker, &deliveries).await;
    let mut expected = vec!["Ended(Succeeded)"; JOBS];
    expected[2] = "Fenced";
    expected[4] = "NotFound";
    assert_eq!(results, expected);
    assert_eq!(settling_transactions(&pipeline).await, 1);
    settle(&worker, &made).await;
    close(pipeline, worker).await;
}

#[tokio::test]
async fn a_job_that_is_twice_in_a_set_is_settled_once() {
    let (pipeline, worker, mut deliveries) = made().await;
    deliveries.push(deliveries[0].clone());
    let results = settle(&worker, &deliveries).await;
    let mut expected = vec!["Ended(Succeeded)"; JOBS];
    expected.push("AlreadyEnded(Succeeded)");
    assert_eq!(results, expected);
    close(pipeline, worker).await;
}

#[tokio::test]
async fn a_row_that_is_refused_fails_alone() {
    let (pipeline, worker, made) = made().await;
    let mut deliveries = made.clone();
    // A rule of the table refuses it.
    deliveries[3].artifacts[0].file.bytes = -1;
    let results = settle(&worker, &deliveries).await;
    for (at, result) in results.iter().enumerate() {
        assert_eq!(result == "Ended(Succeeded)", at != 3, "{results:?}");
    }
    assert!(results[3].contains("breaks the rule"), "{results:?}");
    settle(&worker, &made).await;
    close(pipeline, worker).await;
}

/// Two workers end the same jobs at once: each job is settled once.
#[tokio::test]
async fn two_groups_with_the_same_jobs_settle_each_once() {
    let (pipeline, worker, deliveries) = made().await;
    let backwards: Vec<_> = deliveries.iter().rev().cloned().collect();
    let results = join_all([settle(&worker, &deliveries), settle(&worker, &backwards)]).await;
    let ended = format!("{:?}", SettlementResult::Ended(State::Succeeded));
    let count = results.iter().flatten().filter(|result| **result == ended);
    assert_eq!(count.count(), JOBS, "{results:?}");
    close(pipeline, worker).await;
}

//! `make long-snapshot`: whether a transaction that stays open, as that of a dump does, slows jobs down.
//!
//! Postgres keeps every row version that is replaced while such a transaction is open. Two databases on private servers get
//! the same jobs. In one of them a transaction is open from before the submits until the end. A worker without images works
//! on both in turn, so that only what Postgres does for a job is measured. Prints both rates of each slice. Exits with 1 if
//! the rate with the snapshot is below the least ratio, or the books do not close.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use sqlx::{Connection, Executor};
use tests::pipeline::small_job;
use tests::plain_jobs::PlainWorker;
use tests::proof::Proof;
use tests::servers::OwnServers;
use tests::{Options, Pipeline};
use tokio::task::JoinSet;

/// Jobs a second with the snapshot, divided by those without: at least.
const MIN_RATIO: f64 = 0.8;
/// Slices of the work, in each of which both databases have their turn.
const SLICES: usize = 10;
/// Clients that submit at the same time.
const CLIENTS: usize = 8;

#[derive(Parser)]
struct Arguments {
    /// Jobs in each database.
    #[arg(long, default_value_t = 5_000)]
    jobs: usize,
}

/// One of the databases.
struct Side {
    pipeline: Pipeline,
    worker: PlainWorker,
    took: Duration,
}

impl Side {
    async fn start(servers: tests::servers::TestServers) -> Self {
        let options = Options {
            workers: 0,
            ..Options::in_earnest()
        };
        let pipeline = Pipeline::start_on(servers, options).await;
        let worker = PlainWorker::start(&pipeline, 8).await;
        Self {
            pipeline,
            worker,
            took: Duration::ZERO,
        }
    }

    /// Submits jobs, and returns how many a second.
    async fn submit(&self, jobs: usize) -> f64 {
        let began = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let request = self.pipeline.request(reqwest::Method::POST, "/v1/jobs");
            clients.spawn(async move {
                for _ in 0..jobs / CLIENTS {
                    let request = request.try_clone().unwrap().json(&small_job());
                    let answer = request.send().await.unwrap();
                    assert_eq!(answer.status(), reqwest::StatusCode::ACCEPTED);
                }
            });
        }
        clients.join_all().await;
        rate(jobs, began.elapsed())
    }

    /// Works on jobs, and returns how many a second.
    async fn work(&mut self, jobs: usize) -> f64 {
        let began = Instant::now();
        let mut ended = 0;
        while ended < jobs {
            let more = self.worker.work().await.unwrap();
            if more == 0 {
                break;
            }
            ended += more;
        }
        self.took += began.elapsed();
        rate(ended, began.elapsed())
    }
}

fn rate(jobs: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(jobs).unwrap()) / took.as_secs_f64()
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { jobs } = Arguments::parse();
    let mut proof = Proof::default();
    let (own, servers) = OwnServers::start(servers::Durability::Reduced).await;
    let mut without = Side::start(servers.clone()).await;
    let mut with = Side::start(servers).await;
    let mut dump = with.pipeline.owner().await;
    dump.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM jobs")
        .await
        .unwrap();
    let submits = (without.submit(jobs).await, with.submit(jobs).await);
    println!(
        "{jobs} jobs: {:.0} submits a second without a snapshot, {:.0} with one",
        submits.0, submits.1
    );
    for slice in 0..SLICES {
        let mut rates = [0.0; 2];
        // In the other order for each slice.
        for side in [slice % 2, 1 - slice % 2] {
            let worked = [&mut without, &mut with];
            rates[side] = worked
                .into_iter()
                .nth(side)
                .unwrap()
                .work(jobs / SLICES)
                .await;
        }
        println!(
            "  {:>5.0} jobs a second without, {:>5.0} with",
            rates[0], rates[1]
        );
    }
    let ratio = without.took.as_secs_f64() / with.took.as_secs_f64();
    proof.check(
        ratio >= MIN_RATIO,
        format!("jobs a second with a snapshot, divided by those without: {ratio:.2} (at least {MIN_RATIO})"),
    );
    dump.execute("COMMIT").await.unwrap();
    dump.close().await.unwrap();
    for side in [without, with] {
        while side.worker.work().await.unwrap() > 0 {}
        side.worker.pool.close().await;
        proof.close(side.pipeline).await;
    }
    own.stop().await;
    proof.verdict()
}

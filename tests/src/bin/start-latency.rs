//! How long an idle system takes from the 202 to the model being called.
//!
//! Api, worker and fake run in this process against a private Postgres (fsync on) and Redis. A job is submitted only
//! when the one before has ended. Both ends are read on one clock: the client's when it has the 202, the fake's when
//! it has the request. Prints the percentiles, and exits with 1 when they miss the target.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use cli::private::Tuning;
use tests::pipeline::small_job;
use tests::servers::TestServers;
use tests::{Options, Pipeline};

/// Microseconds.
const P50: i64 = 5_000;
const P99: i64 = 25_000;

#[derive(Parser)]
struct Words {
    #[arg(long, default_value_t = 500)]
    jobs: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    let jobs = Words::parse().jobs;
    let (_folder, servers, named) = TestServers::own(Tuning::Durable).await;
    let pipeline = Pipeline::start_on(
        named,
        Options {
            credits: i64::from(jobs) * 6 + 60,
            ..Options::default()
        },
    )
    .await;
    let journal = pipeline.fake.journal();

    let mut waits = Vec::new();
    for round in 0..jobs + 10 {
        let id = pipeline.submit(&small_job()).await;
        let accepted = i64::try_from(journal.now_us()).unwrap();
        let call = pipeline
            .until(Duration::from_secs(10), async || {
                journal.labelled("job", &id).pop()
            })
            .await;
        pipeline.ended(&id).await;
        // The first ones warm connections and caches.
        if round >= 10 {
            waits.push(i64::try_from(call.received_us).unwrap() - accepted);
        }
    }
    pipeline.close().await;
    servers.stop().await;

    waits.sort_unstable();
    let percentile = |percent: usize| waits[(waits.len() * percent / 100).min(waits.len() - 1)];
    let (p50, p99) = (percentile(50), percentile(99));
    let ms = |us: i64| format!("{}.{:02} ms", us / 1_000, us.abs() % 1_000 / 10);
    println!("from the 202 to the model being called, {jobs} jobs, one at a time:");
    println!(
        "  p50 {}   p90 {}   p99 {}   max {}",
        ms(p50),
        ms(percentile(90)),
        ms(p99),
        ms(waits[waits.len() - 1])
    );
    println!("  target: p50 <= {}, p99 <= {}", ms(P50), ms(P99));
    if p50 <= P50 && p99 <= P99 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

//! `make verify-bench`: how long `platen verify`, and a scrape of the billing metrics, take on a clean history of a million jobs.
//!
//! A private Postgres, as `platen up` starts it, is filled by the set-based SQL beside this file. Prints the time of
//! each invariant and of a scrape, and exits with 1 when one is broken or misses its target.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use common::database::{self, DatabaseRole};
use common::{billing, telemetry, verify};
use servers::Tuning;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgPool};
use tests::servers::TestServers;

/// For each million jobs.
const TARGET: Duration = Duration::from_mins(1);
/// For a scrape, however many jobs there are.
const SCRAPE: Duration = Duration::from_millis(50);
const SCRAPES: usize = 21;

#[derive(Parser)]
struct Words {
    /// Jobs in the history.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u32,
    /// How often it is verified.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    let _exporting = telemetry::start();
    let Words { rows, rounds } = Words::parse();
    let (_folder, servers, named) = TestServers::own(Tuning::Durable).await;
    let database = named.create_database().await;

    let started = Instant::now();
    fill(&named.owner_url_of(&database), rows).await;
    println!(
        "filled with {rows} jobs in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    let reader = database::connect(&named.runtime_url(&database), DatabaseRole::Reader, 1)
        .await
        .unwrap();
    let mut well = scrapes(&named.runtime_url(&database), &reader).await;
    let target = TARGET * rows.div_ceil(1_000_000);
    for _ in 0..rounds {
        let started = Instant::now();
        verify::check(&reader, |invariant, findings, took| {
            println!(
                "  {:4} {:6.2} s  {}",
                invariant.number,
                took.as_secs_f64(),
                invariant.promises
            );
            for finding in findings.iter().take(3) {
                println!("       BROKEN: {}", finding.says);
            }
            well &= findings.is_empty();
        })
        .await
        .unwrap();
        let took = started.elapsed();
        println!(
            "  all  {:6.2} s  (target: {} s)",
            took.as_secs_f64(),
            target.as_secs()
        );
        well &= took <= target;
    }
    reader.close().await;
    servers.stop().await;
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What Prometheus waits for, once the lines are folded as they are every few seconds.
async fn scrapes(url: &str, reader: &PgPool) -> bool {
    let worker = database::connect(url, DatabaseRole::Worker, 1)
        .await
        .unwrap();
    while billing::store::fold(&worker).await.unwrap() > 0 {}
    worker.close().await;
    let transfers: i64 = sqlx::query_scalar("SELECT count(*) FROM transfers")
        .fetch_one(reader)
        .await
        .unwrap();
    let mut took = Vec::new();
    for _ in 0..SCRAPES {
        let started = Instant::now();
        telemetry::billing(reader, 0).await.unwrap();
        took.push(started.elapsed());
    }
    took.sort_unstable();
    let (median, most) = (took[SCRAPES / 2], took[SCRAPES - 1]);
    println!(
        "a scrape of /metrics/billing over {transfers} transfers: {:.1} ms, {:.1} at most of {SCRAPES} (target: {} ms)",
        median.as_secs_f64() * 1e3,
        most.as_secs_f64() * 1e3,
        SCRAPE.as_millis()
    );
    median <= SCRAPE
}

/// As the superuser, on one connection: the SQL makes temporary tables and functions.
async fn fill(url: &str, rows: u32) {
    let options = url.parse::<PgConnectOptions>().unwrap();
    let mut owner = options.disable_statement_logging().connect().await.unwrap();
    owner
        .execute(AssertSqlSafe(format!("SET bench.jobs = {rows}")))
        .await
        .unwrap();
    sqlx::raw_sql(include_str!("verify-million.sql"))
        .execute(&mut owner)
        .await
        .unwrap();
    // As the server would have by then.
    owner.execute("VACUUM (ANALYZE)").await.unwrap();
    owner.execute("CHECKPOINT").await.unwrap();
    owner.close().await.unwrap();
}

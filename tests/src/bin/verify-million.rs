//! `make verify-bench`: how long `platen verify` and a scrape of the billing metrics take on a history of a million jobs.
//!
//! A private Postgres, as `platen up` starts it, is filled with a history. Prints the time of each invariant and of a scrape,
//! and exits with 1 if an invariant is broken or a time misses its target.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use common::money::billing;
use servers::Durability;
use sqlx::PgPool;
use storage::database::{self, DatabaseRole};
use tests::figures::milliseconds;
use tests::history::History;
use tests::proof::Proof;
use tests::servers::OwnServers;

/// The target of a verification, for each million jobs.
const VERIFY_TARGET: Duration = Duration::from_mins(1);
/// The target of a scrape, for any number of jobs.
const SCRAPE_TARGET: Duration = Duration::from_millis(50);
const SCRAPES: usize = 21;

#[derive(Parser)]
struct Arguments {
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
    let Arguments { rows, rounds } = Arguments::parse();
    let mut proof = Proof::default();
    let (servers, named) = OwnServers::start(Durability::Full).await;
    let database = named.create_database().await;

    let started = Instant::now();
    let open = rows.min(400);
    let history = History {
        tenants: 100,
        ended: rows - open,
        running: open / 2,
        queued: open - open / 2,
    };
    history.fill(&named.owner_url_of(&database)).await;
    println!(
        "filled with {rows} jobs in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    let reader = database::connect(&named.runtime_url(&database), DatabaseRole::Reader, 1)
        .await
        .unwrap();
    scrape(&mut proof, &named.runtime_url(&database), &reader).await;
    let target = VERIFY_TARGET * rows.div_ceil(1_000_000);
    for _ in 0..rounds {
        let started = Instant::now();
        let mut broken = Vec::new();
        common::verify::check(&reader, |invariant, findings, took| {
            println!(
                "  {:4} {:6.2} s  {}",
                invariant.number,
                took.as_secs_f64(),
                invariant.promises
            );
            // A broken invariant may have a finding for each job.
            broken.extend(findings.into_iter().take(3).map(|finding| finding.text));
        })
        .await
        .unwrap();
        let took = started.elapsed();
        proof.add(broken);
        proof.check(
            took <= target,
            format!(
                "all invariants in {:.2} s (at most {} s)",
                took.as_secs_f64(),
                target.as_secs()
            ),
        );
    }
    reader.close().await;
    servers.stop().await;
    proof.verdict()
}

/// Measures scrapes after the billing lines are folded, which a worker does every few seconds.
async fn scrape(proof: &mut Proof, url: &str, reader: &PgPool) {
    let worker = database::connect(url, DatabaseRole::Worker, 1)
        .await
        .unwrap();
    while storage::billing::fold(&worker, i64::MIN)
        .await
        .unwrap()
        .lines
        > 0
    {}
    worker.close().await;
    let transfers: i64 = sqlx::query_scalar("SELECT count(*) FROM transfers")
        .fetch_one(reader)
        .await
        .unwrap();
    let mut took = Vec::new();
    for _ in 0..SCRAPES {
        let started = Instant::now();
        billing::metrics(reader, 0).await.unwrap();
        took.push(started.elapsed());
    }
    took.sort_unstable();
    let (median, most) = (took[SCRAPES / 2], took[SCRAPES - 1]);
    proof.check(
        median <= SCRAPE_TARGET,
        format!(
            "a scrape of /metrics/billing over {transfers} transfers takes {:.1} ms, the longest of {SCRAPES} {:.1} ms (at most {} ms)",
            milliseconds(median),
            milliseconds(most),
            SCRAPE_TARGET.as_millis()
        ),
    );
}

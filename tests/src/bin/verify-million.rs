//! `make verify-bench`: how long `platen verify` takes on a clean history of a million jobs.
//!
//! A private Postgres, as `platen up` starts it, is filled by the set-based SQL beside this file. Prints the time of
//! each invariant, and exits with 1 when one is broken or the whole misses its target.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use cli::private::Tuning;
use common::database::{self, Role};
use common::verify;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tests::servers::TestServers;

const TARGET: Duration = Duration::from_mins(1);

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
    common::telemetry::start_logging();
    let Words { rows, rounds } = Words::parse();
    let (_folder, servers, named) = TestServers::own(Tuning::Durable).await;
    let database = named.create_database().await;

    let started = Instant::now();
    fill(&named.owner_url_of(&database), rows).await;
    println!(
        "filled with {rows} jobs in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    let reader = database::connect(&named.runtime_url(&database), Role::Reader, 1)
        .await
        .unwrap();
    let mut well = true;
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
            TARGET.as_secs()
        );
        well &= took <= TARGET;
    }
    reader.close().await;
    servers.stop().await;
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
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

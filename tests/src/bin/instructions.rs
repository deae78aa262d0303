//! `make instructions`: how many instructions of the processor a submit and a job take, beside the counts that are recorded
//! in `tests/bench/instructions.json`.
//!
//! An api and a worker of a release build run under Callgrind on one thread. What their schedules use is subtracted. Prints
//! a line for each point, and exits with 1 if one takes over a tenth more than is recorded. With `--record` the new counts
//! are recorded instead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use fakes::Switches;
use serde_json::{Value, json};
use tests::attack::stage::cancel_open_jobs;
use tests::callgrind::Counted;
use tests::clients::Clients;
use tests::fleet::Role;
use tests::pipeline::small_job;
use tests::proof::Proof;
use tests::real::Real;
use tests::{Options, drain, root};

/// A count divided by the recorded one: at most.
const MAX_GROWTH: f64 = 1.1;
const RECORD: &str = "tests/bench/instructions.json";
/// How long the jobs of one point may take under Callgrind.
const DRAIN_TIMEOUT: Duration = Duration::from_mins(3);

/// Instructions by point, in thousands.
type Counts = BTreeMap<String, u64>;

#[derive(Parser)]
struct Arguments {
    /// The program that is measured: of a release build, as it ships.
    #[arg(long)]
    program: PathBuf,
    /// Record the counts of this run.
    #[arg(long)]
    record: bool,
    /// Count fewer of the jobs that take long under Callgrind.
    #[arg(long, conflicts_with = "record")]
    short: bool,
}

/// What is counted.
struct Point {
    name: &'static str,
    /// How many submits or jobs are counted. As many warm connections and caches before.
    count: usize,
    job: Value,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments {
        program,
        record,
        short,
    } = Arguments::parse();
    let mut proof = Proof::default();
    let mut real = Real::start_alone(Options::in_earnest(), 1..=1).await;
    real.orders.program = program;
    real.fake.faults().set(Switches {
        plain: true,
        grain: true,
        ..Switches::default()
    });
    // An error is a violation, because the pipeline must be closed all the same.
    match compare(&real, record, short).await {
        Ok(points) => {
            for (holds, says) in points {
                proof.check(holds, says);
            }
        }
        Err(error) => proof.check(false, format!("{error:#}")),
    }
    proof.close(real.pipeline).await;
    proof.verdict()
}

/// Counts, and compares with what is recorded. Returns for each point whether it holds, and what it says.
async fn compare(real: &Real, record: bool, short: bool) -> Result<Vec<(bool, String)>> {
    let folder = tempfile::tempdir()?;
    let mut counts = Counts::new();
    counts.insert("submit".to_owned(), submits(real, folder.path()).await?);
    let mut worker = Counted::start(&real.orders, Role::Worker, folder.path(), "worker").await?;
    for point in jobs(short) {
        let count = of_jobs(real, &mut worker, &point).await?;
        counts.insert(point.name.to_owned(), count);
    }
    worker.process.stop().await?;
    if record {
        std::fs::write(root(RECORD), serde_json::to_string_pretty(&counts)? + "\n")?;
    }
    let recorded: Counts = serde_json::from_slice(&std::fs::read(root(RECORD))?)?;
    let points = counts.iter().map(|(name, &count)| {
        let recorded = recorded.get(name);
        let recorded = *recorded.with_context(|| format!("{RECORD} has no {name}"))?;
        let growth = as_number(count)? / as_number(recorded)?;
        let says = format!("{name}: {count} thousand instructions, {growth:.3} of the recorded {recorded} (at most {MAX_GROWTH})");
        Ok((growth <= MAX_GROWTH, says))
    });
    points.collect()
}

/// The jobs that are counted in the worker: from its claim to its settlement.
fn jobs(short: bool) -> Vec<Point> {
    let small = small_job();
    let mut refused = small.clone();
    refused["prompt"] = json!("[[fault:block:SAFETY]] a glass bottle");
    let mut large = small.clone();
    large["size"] = json!("2K");
    vec![
        Point {
            name: "refused_job",
            count: 60,
            job: refused,
        },
        Point {
            name: "job_1k",
            count: if short { 5 } else { 20 },
            job: small,
        },
        Point {
            name: "job_2k",
            count: if short { 2 } else { 6 },
            job: large,
        },
    ]
}

/// Counts submits, in an api of their own. Their jobs are canceled.
async fn submits(real: &Real, folder: &Path) -> Result<u64> {
    const SUBMITS: usize = 200;
    let mut api = Counted::start(&real.orders, Role::Api, folder, "api").await?;
    let clients = Clients::named("submit", &real.pipeline.key, vec![api.process.address()]);
    clients.submit_all(0..SUBMITS, 1, |_| small_job()).await?;
    let work = clients.submit_all(SUBMITS..2 * SUBMITS, 1, |_| small_job());
    let instructions = api.during(work).await?;
    api.process.stop().await?;
    cancel_open_jobs(&real.pipeline).await?;
    per_piece(instructions, SUBMITS)
}

/// Counts jobs in a worker.
async fn of_jobs(real: &Real, worker: &mut Counted, point: &Point) -> Result<u64> {
    let api = real.pipeline.url.trim_start_matches("http://").parse()?;
    let clients = Clients::named(point.name, &real.pipeline.key, vec![api]);
    let drain = async |numbers| {
        clients
            .submit_all(numbers, 8, |_| point.job.clone())
            .await?;
        drain::drained(&real.pipeline.reader, DRAIN_TIMEOUT)
            .await
            .map(drop)
    };
    drain(0..point.count).await?;
    let instructions = worker.during(drain(point.count..2 * point.count)).await?;
    per_piece(instructions, point.count)
}

fn per_piece(instructions: f64, count: usize) -> Result<u64> {
    let thousands = instructions / 1e3 / f64::from(u32::try_from(count)?);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    Ok(thousands.round() as u64)
}

fn as_number(count: u64) -> Result<f64> {
    Ok(f64::from(u32::try_from(count)?))
}

//! `make submit-cost`: what the limits on rates, connections and tenants cost a submit.
//!
//! First in instructions: apis with and without limits run under Callgrind. It is asked how many instructions an api used
//! while it answered submits, and while it was idle for the same time. The difference is the cost of the submits. Then in
//! submits a second: apis with and without limits run side by side and are measured in turn. Prints both, and exits with 1
//! if the limits cost more than they may.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use tests::Options;
use tests::attack::stage::WITHOUT_RATES;
use tests::callgrind::Counted;
use tests::clients::Clients;
use tests::figures::median;
use tests::fleet::{Orders, Process, Role};
use tests::pipeline::small_job;
use tests::proof::Proof;
use tests::real::Real;

/// Instructions with limits, divided by those without: at most.
const MAX_INSTRUCTION_RATIO: f64 = 1.03;
/// Submits a second with limits, divided by those without: at least.
const MIN_RATE_RATIO: f64 = 0.95;
/// Submits that are counted in each round. As many warm connections and caches before the first round.
const COUNTED_SUBMITS: usize = 200;
/// How often instructions are counted; the median is compared.
const ROUNDS: usize = 5;
/// Submits at the same time when the rate is measured.
const CLIENTS: usize = 16;

#[derive(Parser)]
struct Arguments {
    /// How often the rate is measured with and without limits.
    #[arg(long, default_value_t = 10)]
    pairs: usize,
    /// Submits of one measurement.
    #[arg(long, default_value_t = 1_000)]
    submits: usize,
    /// The program that is measured: of a release build, as it ships.
    #[arg(long)]
    program: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments {
        pairs,
        submits,
        program,
    } = Arguments::parse();
    let mut proof = Proof::default();
    let mut real = Real::start_alone(Options::in_earnest(), 100..=300).await;
    real.orders.program = program;
    let scratch = tempfile::tempdir().unwrap();

    let (mut with, mut without) = (
        start_counted(&real, scratch.path(), true).await,
        start_counted(&real, scratch.path(), false).await,
    );
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let with = instructions_per_submit(&mut with, &real).await;
        let without = instructions_per_submit(&mut without, &real).await;
        println!("  {with:.0} instructions of a submit with, {without:.0} without");
        ratios.push(with / without);
    }
    for mut counted in [with, without] {
        counted.process.stop().await.unwrap();
    }
    let ratio = median(ratios);
    proof.check(
        ratio <= MAX_INSTRUCTION_RATIO,
        format!(
            "instructions of a submit with limits, divided by those without: {ratio:.3}, the median of {ROUNDS} rounds (at most {MAX_INSTRUCTION_RATIO})"
        ),
    );

    let with = start(&orders(&real, true)).await;
    let without = start(&orders(&real, false)).await;
    let mut ratios = Vec::new();
    for pair in 0..=pairs {
        let mut rates = [0.0; 2];
        // In the other order for each pair.
        for side in [pair % 2, 1 - pair % 2] {
            let api = [&with, &without][side];
            let began = Instant::now();
            submit(&real, api.address(), submits, CLIENTS).await;
            rates[side] =
                f64::from(u32::try_from(submits).unwrap()) / began.elapsed().as_secs_f64();
        }
        // The first pair warms connections and caches.
        if pair > 0 {
            println!(
                "  {:>5.0} submits/s with, {:>5.0} without",
                rates[0], rates[1]
            );
            ratios.push(rates[0] / rates[1]);
        }
    }
    let ratio = median(ratios);
    proof.check(
        ratio >= MIN_RATE_RATIO,
        format!(
            "submits a second with limits, divided by those without: {ratio:.3}, the median of {pairs} pairs (at least {MIN_RATE_RATIO})"
        ),
    );

    for mut api in [with, without] {
        api.stop().await.unwrap();
    }
    tests::attack::stage::cancel_open_jobs(&real.pipeline)
        .await
        .unwrap();
    proof.close(real.pipeline).await;
    proof.verdict()
}

fn orders(real: &Real, limits: bool) -> Orders {
    let mut orders = real.orders.clone();
    if !limits {
        let off = WITHOUT_RATES.iter();
        let off = off.map(|&(name, value)| (name.to_owned(), value.to_owned()));
        orders.environment.extend(off);
    }
    orders
}

async fn start(orders: &Orders) -> Process {
    orders.start_one(Role::Api).await.unwrap()
}

/// Starts an api under Callgrind, and warms its connections and caches.
async fn start_counted(real: &Real, folder: &Path, limits: bool) -> Counted {
    let orders = orders(real, limits);
    let name = if limits { "with" } else { "without" };
    let counted = Counted::start(&orders, Role::Api, folder, name);
    let counted = counted.await.unwrap();
    submit(real, counted.process.address(), COUNTED_SUBMITS, 1).await;
    counted
}

/// How many instructions one submit takes.
async fn instructions_per_submit(counted: &mut Counted, real: &Real) -> f64 {
    let address = counted.process.address();
    let work = async {
        submit(real, address, COUNTED_SUBMITS, 1).await;
        Ok(())
    };
    let instructions = counted.during(work).await.unwrap();
    instructions / f64::from(u32::try_from(COUNTED_SUBMITS).unwrap())
}

/// Submits `count` jobs, `at_once` of them at the same time. Each must be accepted.
async fn submit(real: &Real, api: SocketAddr, count: usize, at_once: usize) {
    static SUBMITTED: AtomicUsize = AtomicUsize::new(0);
    // The number is part of the idempotency key, so it must never be used twice.
    let first = SUBMITTED.fetch_add(count, Ordering::Relaxed);
    let clients = Clients::new(&real.pipeline.key, vec![api]);
    let all = clients.submit_all(first..first + count, at_once, |_| small_job());
    all.await.unwrap();
    // Let the api finish what it still does after its last answer.
    tokio::time::sleep(Duration::from_millis(200)).await;
}

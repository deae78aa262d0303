//! `make submit-cost`: what the limits on rates, connections and tenants cost a submit.
//!
//! First in instructions: an api runs under Callgrind, once for a few submits and once for many. The difference, less what
//! an idle api uses in the same time, is the cost of the submits; measured with the limits on and off. Then in submits a
//! second: apis with and without limits run side by side and are measured in turn. Prints both, and exits with 1 if the
//! limits cost more than they may.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use tests::attack::stage::WITHOUT_RATES;
use tests::clients::Clients;
use tests::fleet::{Orders, Process, Role};
use tests::pipeline::small_job;
use tests::proof::Proof;
use tests::real::Real;
use tests::{Options, processes};

/// Instructions with limits, divided by those without: at most.
const MAX_INSTRUCTION_RATIO: f64 = 1.03;
/// Submits a second with limits, divided by those without: at least.
const MIN_RATE_RATIO: f64 = 0.95;
/// How many submits are counted under Callgrind.
const FEW_SUBMITS: usize = 100;
const MANY_SUBMITS: usize = 400;
/// How often instructions are counted; the median is compared.
const ROUNDS: usize = 3;
/// How long an idle api is counted.
const IDLE_TIME: Duration = Duration::from_secs(20);
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
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { pairs, submits } = Arguments::parse();
    let mut proof = Proof::default();
    let real = Real::start_alone(Options::in_earnest(), 100..=300).await;
    let scratch = tempfile::tempdir().unwrap();

    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let mut counts = Vec::new();
        // In the other order each round, so that a trend of the machine favours neither.
        for limits in [round % 2 == 0, round % 2 != 0] {
            let instructions = instructions_per_submit(&real, scratch.path(), limits).await;
            counts.push((limits, instructions));
        }
        counts.sort_by_key(|&(limits, _)| !limits);
        let [(_, with), (_, without)] = counts[..] else {
            unreachable!("both were counted")
        };
        println!("  {with:.0} instructions of a submit with, {without:.0} without");
        ratios.push(with / without);
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
            submit(&real, api, submits, CLIENTS).await;
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

fn median(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
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

/// How many instructions one submit takes.
async fn instructions_per_submit(real: &Real, scratch: &Path, limits: bool) -> f64 {
    let few = count(real, scratch, limits, FEW_SUBMITS, Duration::ZERO).await;
    let many = count(real, scratch, limits, MANY_SUBMITS, Duration::ZERO).await;
    // Tasks that run on a schedule are not part of a submit. The start of the api is in both counts.
    let idle = count(real, scratch, limits, FEW_SUBMITS, IDLE_TIME).await;
    let per_second = (idle.instructions - few.instructions) / (idle.seconds - few.seconds);
    let submits = many.instructions - few.instructions - per_second * (many.seconds - few.seconds);
    submits / f64::from(u32::try_from(MANY_SUBMITS - FEW_SUBMITS).unwrap())
}

/// What an api used from its start to its end.
struct Count {
    instructions: f64,
    seconds: f64,
}

/// Runs an api under Callgrind, with `submits` submits and an idle time. Children are counted too, because the program
/// restarts itself with a setting for its allocator.
async fn count(real: &Real, scratch: &Path, limits: bool, submits: usize, idle: Duration) -> Count {
    let output = scratch.join(format!("callgrind-{}", uuid::Uuid::now_v7()));
    let program = scratch.join("platen-counted");
    let script = format!(
        "#!/bin/sh\nexec valgrind --quiet --trace-children=yes --tool=callgrind --callgrind-out-file='{}' '{}' \"$@\"\n",
        output.display(),
        processes::binary("platen").display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let mut orders = orders(real, limits);
    orders.program = program;
    let one_thread = ("TOKIO_WORKER_THREADS".to_owned(), "1".to_owned());
    orders.environment.push(one_thread);
    let mut api = start(&orders).await;
    let began = Instant::now();
    // One after the other: the instructions of threads that wait for each other differ each time.
    submit(real, &api, submits, 1).await;
    tokio::time::sleep(idle).await;
    let seconds = began.elapsed().as_secs_f64();
    api.stop().await.unwrap();
    let text = std::fs::read_to_string(&output).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.expect("Callgrind writes the total").trim();
    Count {
        instructions: total.parse().unwrap(),
        seconds,
    }
}

/// Submits `count` jobs, `at_once` of them at the same time. Each must be accepted.
async fn submit(real: &Real, api: &Process, count: usize, at_once: usize) {
    static SUBMITTED: AtomicUsize = AtomicUsize::new(0);
    // The number is part of the idempotency key, so it must never be used twice.
    let first = SUBMITTED.fetch_add(count, Ordering::Relaxed);
    let clients = Clients::new(&real.pipeline.key, vec![api.address()]);
    let all = clients.submit_all(first..first + count, at_once, |_| small_job());
    all.await.unwrap();
    // Let the api finish what it still does after its last answer.
    tokio::time::sleep(Duration::from_millis(200)).await;
}

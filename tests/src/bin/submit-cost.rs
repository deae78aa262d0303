//! `make submit-cost`: what the bounds on rates, connections and tenants cost a submit.
//!
//! First in instructions: an api runs under Callgrind, once for a few submits and once for many; the difference, less
//! what an idle api takes in as many seconds, is what the submits take, with the bounds on and off. Then in submits a
//! second: apis with and without bounds run side by side, in pairs that take turns. Prints both, and exits with 1 when
//! the bounds cost more than they may.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use futures::StreamExt;
use futures::stream;
use tests::attack::stage::WITHOUT_RATES;
use tests::clients::Clients;
use tests::fleet::{Orders, Process, Role};
use tests::pipeline::small_job;
use tests::processes;
use tests::real::Real;

/// More instructions with bounds than without: at most.
const MORE: f64 = 1.03;
/// Submits a second with bounds, of those without: at least.
const LEFT: f64 = 0.95;
/// Submits under Callgrind.
const FEW: usize = 100;
const MANY: usize = 400;
/// Times that instructions are counted; the median counts.
const ROUNDS: usize = 3;
/// How long an idle api is counted.
const IDLE: Duration = Duration::from_secs(20);
const AT_ONCE: usize = 16;

#[derive(Parser)]
struct Words {
    /// Pairs of stretches with and without bounds.
    #[arg(long, default_value_t = 10)]
    pairs: usize,
    /// Submits of a stretch.
    #[arg(long, default_value_t = 1_000)]
    submits: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Words { pairs, submits } = Words::parse();
    let (_folder, servers, real) = Real::own(100..=300).await;
    let scratch = tempfile::tempdir().unwrap();

    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let mut counts = Vec::new();
        // Who is first takes turns.
        for bounds in [round % 2 == 0, round % 2 != 0] {
            counts.push((bounds, of_a_submit(&real, scratch.path(), bounds).await));
        }
        counts.sort_by_key(|&(bounds, _)| !bounds);
        let [(_, with), (_, without)] = counts[..] else {
            unreachable!("both were counted")
        };
        println!("  {with:.0} instructions of a submit with, {without:.0} without");
        ratios.push(with / without);
    }
    let more = median(ratios);
    println!(
        "instructions of a submit with bounds, of those without: {more:.3}, the median of {ROUNDS} rounds (at most {MORE})"
    );

    let with = ready(&orders(&real, true)).await;
    let without = ready(&orders(&real, false)).await;
    let mut ratios = Vec::new();
    for pair in 0..=pairs {
        let mut rates = [0.0; 2];
        // Who is first takes turns, too.
        for side in [pair % 2, 1 - pair % 2] {
            let api = [&with, &without][side];
            let began = Instant::now();
            submit(&real, api, submits, AT_ONCE).await;
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
    let left = median(ratios);
    println!(
        "submits a second with bounds, of those without: {left:.3}, the median of {pairs} pairs (at least {LEFT})"
    );

    for mut api in [with, without] {
        api.stop().await.unwrap();
    }
    tests::attack::stage::cancel_open_jobs(&real.pipeline)
        .await
        .unwrap();
    real.pipeline.close().await;
    servers.stop().await;
    if more <= MORE && left >= LEFT {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn median(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

fn orders(real: &Real, bounds: bool) -> Orders {
    let mut orders = real.orders.clone();
    if !bounds {
        let off = WITHOUT_RATES.iter();
        let off = off.map(|&(name, value)| (name.to_owned(), value.to_owned()));
        orders.environment.extend(off);
    }
    orders
}

async fn ready(orders: &Orders) -> Process {
    orders.start_one(Role::Api).await.unwrap()
}

/// What a submit takes, in instructions.
async fn of_a_submit(real: &Real, scratch: &Path, bounds: bool) -> f64 {
    let few = counted(real, scratch, bounds, FEW, Duration::ZERO).await;
    let many = counted(real, scratch, bounds, MANY, Duration::ZERO).await;
    // Tasks that run on a schedule are no part of a submit; the start is in both.
    let idle = counted(real, scratch, bounds, FEW, IDLE).await;
    let a_second = (idle.instructions - few.instructions) / (idle.seconds - few.seconds);
    let submits = many.instructions - few.instructions - a_second * (many.seconds - few.seconds);
    submits / f64::from(u32::try_from(MANY - FEW).unwrap())
}

/// What an api took from its start to its end.
struct Counted {
    instructions: f64,
    seconds: f64,
}

/// An api takes `count` submits under Callgrind, and is idle for a while. The program starts itself once more, with
/// variables for its allocator: so children are counted.
async fn counted(
    real: &Real,
    scratch: &Path,
    bounds: bool,
    count: usize,
    idle: Duration,
) -> Counted {
    let told = scratch.join(format!("callgrind-{}", uuid::Uuid::now_v7()));
    let program = scratch.join("platen-counted");
    let script = format!(
        "#!/bin/sh\nexec valgrind --quiet --trace-children=yes --tool=callgrind --callgrind-out-file='{}' '{}' \"$@\"\n",
        told.display(),
        processes::binary("platen").display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let mut orders = orders(real, bounds);
    orders.program = program;
    let one_thread = ("TOKIO_WORKER_THREADS".to_owned(), "1".to_owned());
    orders.environment.push(one_thread);
    let mut api = ready(&orders).await;
    let began = Instant::now();
    // One after the other: how often threads wait for each other would be counted, too, and differs each time.
    submit(real, &api, count, 1).await;
    tokio::time::sleep(idle).await;
    let seconds = began.elapsed().as_secs_f64();
    api.stop().await.unwrap();
    let text = std::fs::read_to_string(&told).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.expect("Callgrind says it").trim();
    Counted {
        instructions: total.parse().unwrap(),
        seconds,
    }
}

/// So many submits, some at once, each of which must be accepted.
async fn submit(real: &Real, api: &Process, count: usize, at_once: usize) {
    static SUBMITTED: AtomicUsize = AtomicUsize::new(0);
    // The number is part of the idempotency key.
    let first = SUBMITTED.fetch_add(count, Ordering::Relaxed);
    let clients = Arc::new(Clients::new(&real.pipeline.key, vec![api.address()]));
    let job = small_job();
    stream::iter(0..count)
        .for_each_concurrent(at_once, |number| {
            let (clients, job) = (Arc::clone(&clients), job.clone());
            async move {
                clients.submit(first + number, &job).await.unwrap();
            }
        })
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
}

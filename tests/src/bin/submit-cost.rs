//! `make submit-cost`: what the bounds on rates, connections and tenants cost a submit.
//!
//! First in instructions: an api runs under Callgrind, once for a few submits and once for many; the difference is
//! what a submit takes, with the bounds on and off. Then in submits a second: apis with and without bounds run side
//! by side, in pairs that take turns. Prints both, and exits with 1 when the bounds cost more than they may.
#![expect(clippy::print_stdout, reason = "prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
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

    let mut counts = Vec::new();
    for bounds in [true, false] {
        let mut totals = Vec::new();
        for count in [FEW, MANY] {
            totals.push(instructions(&real, scratch.path(), bounds, count).await);
        }
        counts.push((totals[1] - totals[0]) / u64::try_from(MANY - FEW).unwrap());
    }
    let more = ratio(counts[0], counts[1]);
    println!(
        "instructions of a submit: {} with bounds, {} without: {more:.3} (at most {MORE})",
        counts[0], counts[1]
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
            submit(&real, api, pair * 2 + side, submits).await;
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
    ratios.sort_by(f64::total_cmp);
    let left = ratios[ratios.len() / 2];
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

fn ratio(a: u64, b: u64) -> f64 {
    let float = |count: u64| f64::from(u32::try_from(count).expect("a submit is short"));
    float(a) / float(b)
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

/// The program starts itself once more, with variables for its allocator: so children are counted.
/// What an api takes from its start to its end, with so many submits between.
async fn instructions(real: &Real, scratch: &Path, bounds: bool, count: usize) -> u64 {
    let told = scratch.join(format!("callgrind-{bounds}-{count}"));
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
    let mut api = ready(&orders).await;
    submit(real, &api, 1_000_000 + count + usize::from(bounds), count).await;
    api.stop().await.unwrap();
    let text = std::fs::read_to_string(&told).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    total.expect("Callgrind says it").trim().parse().unwrap()
}

/// So many submits, some at once, each of which must be accepted.
async fn submit(real: &Real, api: &Process, round: usize, count: usize) {
    let clients = Arc::new(Clients::new(&real.pipeline.key, vec![api.address()]));
    let job = small_job();
    stream::iter(0..count)
        .for_each_concurrent(AT_ONCE, |number| {
            let (clients, job) = (Arc::clone(&clients), job.clone());
            async move {
                clients.submit(round * 10_000 + number, &job).await.unwrap();
            }
        })
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
}

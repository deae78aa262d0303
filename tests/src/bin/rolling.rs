//! `make rolling`: stops and restarts every process, one after the other, round after round, under load.
//!
//! Two apis and three workers are real processes, on a private Postgres and Redis. The fake takes a few seconds for an
//! image, which is less than a stopping worker waits. Clients submit all the time, and use the other api when one is not
//! available. No job may fail, no image may be requested twice, no submit may be lost, and each process must stop in time
//! with exit code 0. Prints the counts, and exits with 1 if one of these is violated.
#![expect(clippy::print_stdout, reason = "prints what it counted")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use tests::clients::{Clients, Load};
use tests::fleet::{Process, Role};
use tests::proof::Proof;
use tests::real::Real;
use tests::{Options, drain, once};

const APIS: usize = 2;
const WORKERS: usize = 3;
const MODEL: &str = "gemini-nano-banana-2.1";
/// How long the fake takes for an image, in milliseconds.
const LATENCY: RangeInclusive<u64> = 1_000..=3_000;
/// A stop may take as long as an image that was just requested, and a little more.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const DRAIN_TIMEOUT: Duration = Duration::from_mins(1);
/// After this time every worker has jobs.
const WARM_UP: Duration = Duration::from_secs(3);

#[derive(Parser)]
struct Arguments {
    /// How often each process is restarted.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// Jobs submitted each second.
    #[arg(long, default_value_t = 8)]
    rate: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { rounds, rate } = Arguments::parse();
    let mut proof = Proof::default();
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = Real::start_alone(Options::in_earnest(), LATENCY).await;
    let mut apis = orders.start(Role::Api, APIS).await.unwrap();
    let mut workers = orders.start(Role::Worker, WORKERS).await.unwrap();

    let addresses = apis.iter().map(Process::address).collect();
    let clients = Arc::new(Clients::new(&pipeline.key, addresses));
    let load = Load::start(clients, rate, MODEL);
    tokio::time::sleep(WARM_UP).await;
    let began = Instant::now();
    let mut stops = Vec::new();
    for round in 1..=rounds {
        let (of_apis, of_workers) = tokio::join!(roll(&mut apis), roll(&mut workers));
        stops.extend(of_apis.into_iter().chain(of_workers));
        let seconds = began.elapsed().as_secs_f64();
        println!("round {round} of {rounds}, {seconds:.0} s");
    }
    let offered = load.end().await.unwrap();
    let drained = drain::drained(&pipeline.reader, DRAIN_TIMEOUT).await;
    for process in apis.iter_mut().chain(&mut workers) {
        stops.push(stop(process).await);
    }

    proof.add(drained.err().map(|error| format!("{error:#}")));
    proof.add(judge_stops(stops));
    proof.add(once::judge(&pipeline.reader, &fake.journal(), &offered).await);
    proof.close(pipeline).await;
    proof.verdict()
}

/// The role of a process that was stopped, and how long that took or what was wrong.
struct Stop {
    role: Role,
    took: anyhow::Result<Duration>,
}

/// Stops each process and starts it again, one after the other.
async fn roll(processes: &mut [Process]) -> Vec<Stop> {
    let mut stops = Vec::new();
    for process in processes {
        stops.push(stop(process).await);
        process.start().unwrap();
        process.ready().await.unwrap();
    }
    stops
}

async fn stop(process: &mut Process) -> Stop {
    Stop {
        role: process.role,
        took: process.stop_cleanly(STOP_TIMEOUT).await,
    }
}

/// Prints how long stops took, and returns what was wrong with them.
fn judge_stops(stops: Vec<Stop>) -> Vec<String> {
    for role in [Role::Api, Role::Worker] {
        let of_role = stops.iter().filter(|stop| stop.role == role);
        let longest = of_role.clone().filter_map(|stop| stop.took.as_ref().ok());
        println!(
            "  {} stops of the role {}, the longest took {:.1} s",
            of_role.count(),
            role.command(),
            longest.max().copied().unwrap_or_default().as_secs_f64()
        );
    }
    let errors = stops.into_iter().filter_map(|stop| stop.took.err());
    errors.map(|error| format!("{error:#}")).collect()
}

//! `make rolling`: every process is stopped and started again, one after the other, round after round, under load.
//!
//! Two apis and three workers are real processes, on a private Postgres and Redis; the fake takes a few seconds for a
//! picture, which is less than a stopping worker waits. Clients submit all the time, and go to the other api when one
//! is not there. Nobody may notice: no job fails, none is paid for twice, no submit is lost, and each process ends by
//! itself, in time. Prints what was counted, and exits with 1 when any of it happened.
#![expect(clippy::print_stdout, reason = "prints what it counted")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use tests::clients::Clients;
use tests::fleet::{Process, Role};
use tests::real::Real;
use tests::{once, verdict};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const APIS: usize = 2;
const WORKERS: usize = 3;
const MODEL: &str = "gemini-nano-banana-2.1";
/// What the fake takes for a picture, in milliseconds.
const LATENCY: RangeInclusive<u64> = 1_000..=3_000;
/// A stop may take as long as a picture that was just asked for, and a little more.
const STOP: Duration = Duration::from_secs(15);
const DRAIN: Duration = Duration::from_mins(1);

#[derive(Parser)]
struct Words {
    /// How often each process is restarted.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// Jobs submitted each second.
    #[arg(long, default_value_t = 8)]
    rate: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Words { rounds, rate } = Words::parse();
    let (_folder, servers, real) = Real::own(LATENCY).await;
    let Real {
        pipeline,
        fake,
        orders,
        folders: _folders,
    } = real;
    let mut apis = orders.start(Role::Api, APIS).await.unwrap();
    let mut workers = orders.start(Role::Worker, WORKERS).await.unwrap();

    let addresses = apis.iter().map(Process::address).collect();
    let clients = Arc::new(Clients::new(&pipeline.key, addresses));
    let enough = CancellationToken::new();
    let mut offering = JoinSet::new();
    offering.spawn(clients.offer(rate, MODEL, enough.clone()));
    // Until every worker has something to lose.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let began = Instant::now();
    let mut stops = Vec::new();
    for round in 1..=rounds {
        let (of_apis, of_workers) = tokio::join!(roll(&mut apis), roll(&mut workers));
        stops.extend(of_apis.into_iter().chain(of_workers));
        let seconds = began.elapsed().as_secs_f64();
        println!("round {round} of {rounds}, {seconds:.0} s");
    }
    enough.cancel();
    let offered = offering.join_next().await.unwrap().unwrap();
    let drained = pipeline.drained(DRAIN).await;
    // What was started is stopped as politely as before.
    for process in apis.iter_mut().chain(&mut workers) {
        stops.push(stop(process).await);
    }

    let mut violations = Vec::new();
    if !drained {
        violations.push(format!(
            "jobs were still open {DRAIN:?} after the last submit"
        ));
    }
    judge_stops(&stops, &mut violations);
    violations.extend(once::judge(&pipeline.reader, &fake.journal(), &offered).await);
    let mut closing = JoinSet::new();
    closing.spawn(pipeline.close());
    if closing
        .join_next()
        .await
        .is_none_or(|closed| closed.is_err())
    {
        violations.push("the books do not close".to_owned());
    }
    servers.stop().await;
    verdict(&violations)
}

/// How a process ended.
struct Stop {
    name: String,
    role: Role,
    took: Duration,
    /// What was wrong with it.
    wrong: Option<String>,
}

/// Stops each and starts it again, one after the other.
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
    let asked = Instant::now();
    let ended = tokio::time::timeout(STOP, process.stop()).await;
    let wrong = match ended {
        Ok(Ok(status)) if status.success() => None,
        Ok(Ok(status)) => Some(format!("ended with {status}; {}", process.last_words())),
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some(format!("had not ended after {STOP:?}")),
    };
    Stop {
        name: process.name.clone(),
        role: process.role,
        took: asked.elapsed(),
        wrong,
    }
}

fn judge_stops(stops: &[Stop], violations: &mut Vec<String>) {
    for role in [Role::Api, Role::Worker] {
        let of_role = stops.iter().filter(|stop| stop.role == role);
        let longest = of_role.clone().map(|stop| stop.took).max();
        println!(
            "  {} times the role {} was stopped, the longest stop took {:.1} s",
            of_role.count(),
            role.word(),
            longest.unwrap_or_default().as_secs_f64()
        );
    }
    let wrong = stops.iter().filter_map(|stop| {
        let wrong = stop.wrong.as_ref()?;
        Some(format!("{} {wrong}", stop.name))
    });
    violations.extend(wrong);
}

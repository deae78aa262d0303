//! `make chaos`: the product under load while everything it depends on fails, as planned by a seed. See `tests::chaos`.
#![expect(clippy::print_stdout, reason = "prints what it saw")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Parser;
use common::config::Timing;
use tests::chaos::books::{self, Books, Figures};
use tests::chaos::clients::{self, Memory};
use tests::chaos::plan::Plan;
use tests::chaos::recovery::{Recovery, Summary};
use tests::chaos::stage::Stage;
use tests::chaos::strikes;
use tests::drain::{drained_without_standstill, open_jobs};
use tests::figures::percentile;
use tests::proof::Proof;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// With this many faults or more, leases have their default length. A shorter run could not wait for them.
const LONG_RUN_FAULTS: u32 = 1_000;
const SHORT_LEASE: Duration = Duration::from_secs(5);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(20);
/// Jobs a second.
const RATE: f64 = 3.0;
/// After all faults, if no job ends for so many leases and this time more, the jobs stand still.
const STANDSTILL: (u32, Duration) = (3, Duration::from_mins(1));

#[derive(Parser)]
struct Arguments {
    /// How many faults.
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// The seed of the plan; taken from the clock if missing.
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds in which the faults come; about one fault a second if missing.
    #[arg(long)]
    seconds: Option<u32>,
    /// Seconds of a lease.
    #[arg(long)]
    lease: Option<u64>,
    /// The folder for data and logs, which is kept. A temporary one if missing.
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    // The worker that sweeps at the end runs in this process and needs a crypto provider.
    let _installed_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments = Arguments::parse();
    let seed = arguments
        .seed
        .unwrap_or_else(|| domain::clock::now().unix_timestamp().unsigned_abs());
    let mut proof = Proof::default();
    match run(&arguments, seed).await {
        Ok(violations) => proof.add(violations),
        Err(error) => proof.add([format!("the run could not be finished: {error:#}")]),
    }
    proof.verdict()
}

/// Returns the violations.
async fn run(arguments: &Arguments, seed: u64) -> anyhow::Result<Vec<String>> {
    let is_long = arguments.kills >= LONG_RUN_FAULTS;
    let default_lease = if is_long {
        Timing::default().lease
    } else {
        SHORT_LEASE
    };
    let lease = arguments.lease.map_or(default_lease, Duration::from_secs);
    let interval = match arguments.seconds {
        Some(seconds) => Duration::from_secs(seconds.into()) / arguments.kills.max(1),
        None if is_long => Duration::from_millis(1_300),
        None => Duration::from_millis(950),
    };
    let plan = Plan::new(seed, arguments.kills, interval, lease);
    announce(&plan, seed, lease);
    let temporary = tempfile::tempdir()?;
    let folder = arguments
        .folder
        .clone()
        .unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;

    let began = Instant::now();
    let stage = Arc::new(Stage::start(&folder, lease).await?);
    println!("{:>5.0} s  everything runs", began.elapsed().as_secs_f64());
    let (memory, recovery) = (Arc::new(Memory::default()), Arc::new(Recovery::default()));
    let (stop_load, stop_watch) = (CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    tasks.spawn(recovery.watch(&stage.owner, stop_watch.clone()));
    tasks.spawn(restart_ended(Arc::clone(&stage), stop_watch.clone()));
    tasks.spawn(print_progress(
        Arc::clone(&stage),
        Arc::clone(&memory),
        began,
        stop_watch.clone(),
    ));
    let load = {
        let (stage, memory, stop) = (Arc::clone(&stage), Arc::clone(&memory), stop_load.clone());
        tasks.spawn(async move { clients::submit(&stage, &memory, seed, RATE, &stop).await })
    };

    strikes::carry_out(&stage, &recovery, &plan).await;
    stop_load.cancel();
    load.await??;
    println!(
        "{:>5.0} s  all faults are over and nothing more is submitted",
        began.elapsed().as_secs_f64()
    );
    wait_for_jobs(&stage, lease).await?;
    println!("{:>5.0} s  no job is open", began.elapsed().as_secs_f64());
    books::metrics_agree(&stage).await?;
    stop_watch.cancel();
    tasks.close();
    tasks.wait().await;
    stop_cleanly(&stage).await;

    let figures = Books::open(&stage, &memory, &recovery, lease)
        .await?
        .close()
        .await?;
    let summary = recovery.summary(&stage.diary.events(), lease);
    report(&stage, &memory, &figures, &summary);
    println!("  in {:.0} s", began.elapsed().as_secs_f64());
    let violations = stage.diary.violations();
    if !violations.is_empty() {
        println!(
            "run it again with: make chaos KILLS={} SEED={seed}",
            arguments.kills
        );
        if arguments.folder.is_none() {
            println!("data and logs are kept in {}", temporary.keep().display());
        }
    }
    Ok(violations)
}

fn announce(plan: &Plan, seed: u64, lease: Duration) {
    println!(
        "seed {seed}: {} faults within {:.0} s, leases of {} s, {} outages of Postgres",
        plan.faults.len(),
        plan.length.as_secs_f64(),
        lease.as_secs(),
        plan.outages.len()
    );
    for (kind, count) in plan.kinds() {
        println!("  {count:>4}  {kind}");
    }
}

async fn restart_ended(stage: Arc<Stage>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        stage.restart_ended_processes().await;
    }
}

async fn print_progress(
    stage: Arc<Stage>,
    memory: Arc<Memory>,
    began: Instant,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    ticks.tick().await;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let open = open_jobs(&stage.owner).await;
        println!(
            "{:>5.0} s  {:>4} faults  {:>5} jobs accepted, {} open  {} violations",
            began.elapsed().as_secs_f64(),
            stage.diary.events().len(),
            memory.count(),
            open.map_or_else(|_| "?".to_owned(), |open| open.to_string()),
            stage.diary.violations().len()
        );
    }
}

/// Waits until every job has ended. Jobs that stand still are violations.
async fn wait_for_jobs(stage: &Stage, lease: Duration) -> anyhow::Result<()> {
    let (leases, more) = STANDSTILL;
    let standstill = lease * leases + more;
    if drained_without_standstill(&stage.owner, standstill)
        .await
        .is_err()
    {
        let stuck: Vec<String> = sqlx::query_scalar(
            "SELECT format('I20: job %s stands still: %s since %s, fence %s, lease until %s, worker %s', id, state, run_after, fence, lease_until, worker)
             FROM jobs WHERE finished_at IS NULL",
        )
        .fetch_all(&stage.owner)
        .await?;
        for job in stuck {
            stage.diary.violation(job);
        }
    }
    Ok(())
}

async fn stop_cleanly(stage: &Stage) {
    for process in stage.processes() {
        let mut process = process.lock().await;
        if let Err(error) = process.stop_cleanly(strikes::STOP_TIMEOUT).await {
            stage.diary.violation(format!("{error:#}"));
        }
    }
}

fn report(stage: &Stage, memory: &Memory, figures: &Figures, recovery: &Summary) {
    let kinds = stage.diary.kinds();
    println!("{} faults:", kinds.values().sum::<usize>());
    for (kind, count) in kinds {
        println!("  {count:>5}  {kind}");
    }
    println!("{} jobs:", figures.jobs.values().sum::<i64>());
    for (state, count) in &figures.jobs {
        println!("  {count:>5}  {state}");
    }
    let load = |number: &std::sync::atomic::AtomicUsize| number.load(Ordering::Relaxed);
    println!(
        "{} requests by clients, {} of them never answered; {} submits repeated, {} jobs canceled",
        load(&memory.requests),
        load(&memory.unanswered),
        load(&memory.repeated),
        load(&memory.canceled)
    );
    println!("{} requests for images at the provider:", figures.creates);
    for (answer, count) in &figures.answers {
        println!("  {count:>5}  {answer}");
    }
    let wasted: usize = figures.wasted.values().sum();
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let share = figures
        .wasted
        .get("kill -9 of a worker")
        .copied()
        .unwrap_or(0) as f64
        / recovery.killed.max(1) as f64;
    println!(
        "{wasted} images made and not delivered; {} jobs were held by workers when they were killed, which cost {share:.2} images each:",
        recovery.killed
    );
    for (reason, count) in &figures.wasted {
        println!("  {count:>5}  {reason}");
    }
    println!(
        "{} files are as they were stored; {} orphans were swept",
        figures.objects, figures.orphans
    );
    let seconds = |percent: usize| percentile(&recovery.times, percent).as_secs_f64();
    println!(
        "jobs of killed workers claimed again: p50 {:.1} s, p99 {:.1} s, longest {:.1} s, of {}; {} more were delayed by a loss of Postgres, {} ended by themselves",
        seconds(50),
        seconds(99),
        seconds(100),
        recovery.times.len(),
        recovery.held_up,
        recovery.ended
    );
}

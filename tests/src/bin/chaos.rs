//! `make chaos`: the product under load while everything it stands on fails, as planned by a seed. See `tests::chaos`.
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
use tests::pipeline::open_jobs;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// From so many faults on leases are as long as they are by default; a shorter run could not wait for them.
const LONG: u32 = 1_000;
const SHORT_LEASE: Duration = Duration::from_secs(5);
const TELL_EVERY: Duration = Duration::from_secs(20);
/// Jobs a second.
const RATE: f64 = 3.0;
/// In which at least one job must end once nothing fails any more, in leases, and besides.
const STANDSTILL: (u32, Duration) = (3, Duration::from_mins(1));

#[derive(Parser)]
struct Words {
    /// Faults.
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// The plan's seed; taken from the clock when missing.
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults come; about one a second when missing.
    #[arg(long)]
    seconds: Option<u32>,
    /// Seconds of a lease.
    #[arg(long)]
    lease: Option<u64>,
    /// Where data and logs go, and stay; a folder that is removed when missing.
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    // A TLS provider for the worker that sweeps at the end.
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let words = Words::parse();
    let seed = words
        .seed
        .unwrap_or_else(|| common::clock::now().unix_timestamp().unsigned_abs());
    match run(&words, seed).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("the run broke off: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(words: &Words, seed: u64) -> anyhow::Result<usize> {
    let long = words.kills >= LONG;
    let by_default = if long {
        Timing::default().lease
    } else {
        SHORT_LEASE
    };
    let lease = words.lease.map_or(by_default, Duration::from_secs);
    let pace = match words.seconds {
        Some(seconds) => Duration::from_secs(seconds.into()) / words.kills.max(1),
        None if long => Duration::from_millis(1_300),
        None => Duration::from_millis(950),
    };
    let plan = Plan::new(seed, words.kills, pace, lease);
    announce(&plan, seed, lease);
    let temporary = tempfile::tempdir()?;
    let folder = words
        .folder
        .clone()
        .unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;

    let began = Instant::now();
    let stage = Arc::new(Stage::start(&folder, lease).await?);
    println!("{:>5.0} s  everything is up", began.elapsed().as_secs_f64());
    let (memory, recovery) = (Arc::new(Memory::default()), Arc::new(Recovery::default()));
    let (stop_load, stop_watch) = (CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    tasks.spawn(recovery.watch(&stage.owner, stop_watch.clone()));
    tasks.spawn(look_after(Arc::clone(&stage), stop_watch.clone()));
    tasks.spawn(tell(
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
        "{:>5.0} s  all is healed and nobody submits any more",
        began.elapsed().as_secs_f64()
    );
    quiet(&stage, lease).await?;
    println!("{:>5.0} s  all is quiet", began.elapsed().as_secs_f64());
    books::metrics_agree(&stage).await?;
    stop_watch.cancel();
    tasks.close();
    tasks.wait().await;
    stop_politely(&stage).await?;

    let figures = Books::open(&stage, &memory, &recovery, lease)
        .await?
        .close()
        .await?;
    let summary = recovery.summary(&stage.diary.events(), lease);
    report(&stage, &memory, &figures, &summary);
    println!("  in {:.0} s", began.elapsed().as_secs_f64());
    let violations = stage.diary.violations();
    if !violations.is_empty() {
        for violation in &violations {
            println!("VIOLATION  {violation}");
        }
        println!("run again: make chaos KILLS={} SEED={seed}", words.kills);
        if words.folder.is_none() {
            println!("data and logs stay in {}", temporary.keep().display());
        }
    }
    println!("violations: {}", violations.len());
    Ok(violations.len())
}

fn announce(plan: &Plan, seed: u64, lease: Duration) {
    println!(
        "seed {seed}: {} faults within {:.0} s, leases of {} s, {} times in which Postgres fails again and again",
        plan.faults.len(),
        plan.length.as_secs_f64(),
        lease.as_secs(),
        plan.outages.len()
    );
    for (kind, count) in plan.kinds() {
        println!("  {count:>4}  {kind}");
    }
}

async fn look_after(stage: Arc<Stage>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        stage.look_after_processes().await;
    }
}

async fn tell(stage: Arc<Stage>, memory: Arc<Memory>, began: Instant, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(TELL_EVERY);
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

/// Waits until no job is open. When none ends for long, those that are open stand still, and that is a violation.
async fn quiet(stage: &Stage, lease: Duration) -> anyhow::Result<()> {
    let (leases, besides) = STANDSTILL;
    let patience = lease * leases + besides;
    let (mut least, mut since) = (i64::MAX, Instant::now());
    loop {
        let open = open_jobs(&stage.owner).await?;
        if open == 0 {
            return Ok(());
        }
        if open < least {
            (least, since) = (open, Instant::now());
        }
        if since.elapsed() > patience {
            let stuck: Vec<String> = sqlx::query_scalar(
                "SELECT format('I20: job %s stands still: %s since %s, fence %s, lease until %s, worker %s', id, state, run_after, fence, lease_until, worker)
                 FROM jobs WHERE finished_at IS NULL",
            )
            .fetch_all(&stage.owner)
            .await?;
            for job in stuck {
                stage.diary.violation(job);
            }
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn stop_politely(stage: &Stage) -> anyhow::Result<()> {
    for process in stage.processes() {
        let mut process = process.lock().await;
        let status = process.stop().await?;
        stage.diary.demand(status.success(), || {
            let words = process.last_words();
            format!(
                "{} was asked to stop at the end and ended with {status}; {words}",
                process.name
            )
        });
    }
    Ok(())
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
        "{} requests by clients, {} of them never answered; {} jobs asked for again, {} canceled",
        load(&memory.requests),
        load(&memory.unanswered),
        load(&memory.repeated),
        load(&memory.canceled)
    );
    println!("{} requests for pictures at the provider:", figures.creates);
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
        "{wasted} pictures made and not delivered; {} jobs held by workers when they were killed, which cost {share:.2} pictures each:",
        recovery.killed
    );
    for (reason, count) in &figures.wasted {
        println!("  {count:>5}  {reason}");
    }
    println!(
        "{} files read and the ones that were stored; {} nobody named were swept away",
        figures.objects, figures.orphans
    );
    let percentile = |percent: usize| {
        let times = &recovery.times;
        times
            .get((times.len() * percent / 100).min(times.len().saturating_sub(1)))
            .map_or(0.0, Duration::as_secs_f64)
    };
    println!(
        "killed workers' jobs taken up again: p50 {:.1} s, p99 {:.1} s, longest {:.1} s, of {}; {} more held up by a loss of Postgres, {} ended by themselves",
        percentile(50),
        percentile(99),
        percentile(100),
        recovery.times.len(),
        recovery.held_up,
        recovery.ended
    );
}

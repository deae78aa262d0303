//! The work that is measured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::contestant::{Contestant, Run, Setting};
use crate::load::{Until, ratio};
use crate::model::Answers;
use crate::rows::Row;

/// Clients that submit at the same time.
const CONNECTIONS: usize = 32;
/// Jobs that are drained while the machine is full.
const PHOTO_JOBS: usize = 150;
const FLAT_JOBS: usize = 1_500;
/// How long submits are measured.
const SUBMIT_TIME: Duration = Duration::from_secs(6);
/// Submits before the measurement. They warm connections and caches.
const WARM_UP_SUBMITS: usize = 300;
const CALLS: usize = 1_000;
const CALL_LATENCY: Duration = Duration::from_secs(20);
/// How long a drain may take, also on a machine that others use.
const DRAIN_TIMEOUT: Duration = Duration::from_mins(15);

/// One kind of work.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Scenario {
    /// 150 jobs, 2048² to 1K, PNG.
    Png,
    /// The same as JPEG.
    Jpeg,
    /// 1,500 jobs with small images of one color.
    Flat,
    /// Submits of 64 tenants.
    Submits64,
    /// Submits of one tenant.
    Submits1,
    /// 1,000 calls that take 20 seconds each.
    InFlight,
}

/// What one run gave.
pub(crate) type Figures = Vec<(Row, f64)>;

impl Scenario {
    pub(crate) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Runs it with a contestant on servers of its own. Returns also the folder that it used, with empty files.
    pub(crate) async fn run(
        self,
        contestant: &Contestant,
        answers: &Arc<Answers>,
    ) -> Result<(Figures, TempDir)> {
        let basic = Setting {
            tenants: 1,
            slots: 8,
            latency: Duration::ZERO,
            flat: false,
            many_calls: false,
            format: "png",
        };
        let setting = match self {
            Self::Png | Self::Submits1 => basic,
            Self::Jpeg => Setting {
                format: "jpeg",
                ..basic
            },
            Self::Flat => Setting {
                slots: 32,
                flat: true,
                format: "jpeg",
                ..basic
            },
            Self::Submits64 => Setting {
                tenants: 64,
                ..basic
            },
            Self::InFlight => Setting {
                slots: CALLS,
                latency: CALL_LATENCY,
                format: "jpeg",
                many_calls: true,
                ..basic
            },
        };
        let mut run = Run::start(contestant, answers, setting, CONNECTIONS).await?;
        let figures = match self {
            Self::Png => drain(&mut run, PHOTO_JOBS).await?.figures(&[
                Row::CpuPng,
                Row::RatePng,
                Row::MemoryIdle,
                Row::KernelShare,
            ]),
            Self::Jpeg => drain(&mut run, PHOTO_JOBS)
                .await?
                .figures(&[Row::CpuJpeg, Row::RateJpeg]),
            Self::Flat => drain(&mut run, FLAT_JOBS)
                .await?
                .figures(&[Row::RateFlat, Row::PostgresJob]),
            Self::Submits64 | Self::Submits1 => submit(&run, self).await?,
            Self::InFlight => in_flight(&mut run).await?,
        };
        Ok((figures, run.stop().await?))
    }
}

/// What a drain used.
struct Drained {
    /// Milliseconds of api and worker per job.
    cpu_ms: f64,
    postgres_ms: f64,
    per_second: f64,
    idle_mb: f64,
    kernel_share: f64,
}

impl Drained {
    fn figures(&self, rows: &[Row]) -> Figures {
        let figure = |row| match row {
            Row::CpuPng | Row::CpuJpeg => self.cpu_ms,
            Row::PostgresJob => self.postgres_ms,
            Row::MemoryIdle => self.idle_mb,
            Row::KernelShare => self.kernel_share,
            _ => self.per_second,
        };
        rows.iter().map(|&row| (row, figure(row))).collect()
    }
}

/// Submits jobs while the worker works on them, until all have ended.
async fn drain(run: &mut Run, jobs: usize) -> Result<Drained> {
    run.start_worker().await?;
    let idle_kib = run.api.memory_kib()? + worker(run)?.memory_kib()?;
    let before = run.used()?;
    run.submit(Until::Count(jobs)).await?;
    let ended = run.drained(jobs, DRAIN_TIMEOUT).await?;
    let used = run.used()?.since(before);
    let per_job = |time: Duration| time.as_secs_f64() * 1e3 / ratio(jobs);
    Ok(Drained {
        cpu_ms: per_job(used.api.total() + used.worker.total()),
        postgres_ms: per_job(used.postgres.total()),
        per_second: ratio(ended.succeeded) / ended.elapsed.as_secs_f64(),
        idle_mb: megabytes(idle_kib),
        kernel_share: used.worker.kernel.as_secs_f64() / used.worker.total().as_secs_f64(),
    })
}

/// Submits as fast as answers come. No worker runs.
async fn submit(run: &Run, scenario: Scenario) -> Result<Figures> {
    run.submit(Until::Count(WARM_UP_SUBMITS)).await?;
    let before = run.used()?;
    let submits = run.submit(Until::Elapsed(SUBMIT_TIME)).await?;
    let used = run.used()?.since(before);
    let postgres_ms = used.postgres.total().as_secs_f64() * 1e3 / ratio(submits.accepted);
    Ok(match scenario {
        Scenario::Submits64 => vec![
            (Row::Submits64, submits.per_second()),
            (Row::PostgresSubmit, postgres_ms),
        ],
        _ => vec![
            (Row::Submits1, submits.per_second()),
            (Row::P99Submit1, submits.p99_ms()),
        ],
    })
}

/// Submits 1,000 jobs whose calls take 20 seconds, and watches them end.
async fn in_flight(run: &mut Run) -> Result<Figures> {
    run.start_worker().await?;
    run.submit(Until::Count(CALLS)).await?;
    let began = Instant::now();
    let mut most_kib = 0;
    while run.ended().await? < CALLS {
        anyhow::ensure!(
            began.elapsed() < DRAIN_TIMEOUT,
            "the calls did not end within {DRAIN_TIMEOUT:?}"
        );
        tokio::time::sleep(Duration::from_millis(250)).await;
        most_kib = most_kib.max(worker(run)?.memory_kib()?);
    }
    let first_answer = run.model.first_answer().context("no call was answered")?;
    let seconds = first_answer.elapsed().as_secs_f64();
    run.drained(CALLS, DRAIN_TIMEOUT).await?;
    Ok(vec![
        (Row::InFlight, ratio(run.model.most_open())),
        (Row::RateDraining, ratio(CALLS) / seconds),
        (Row::MemoryInFlight, megabytes(most_kib)),
    ])
}

fn worker(run: &Run) -> Result<&crate::process::Process> {
    run.worker.as_ref().context("the worker was not started")
}

fn megabytes(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) * 1_024.0 / 1e6
}

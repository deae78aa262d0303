//! Waits until every job has ended.

use std::time::{Duration, Instant};

use anyhow::bail;
use sqlx::PgPool;

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How many jobs have not ended.
pub async fn open_jobs(rows: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM jobs WHERE finished_at IS NULL")
        .fetch_one(rows)
        .await
}

/// Waits until every job has ended, and returns how long that took.
///
/// # Errors
///
/// Jobs are still open after `within`.
pub async fn drained(rows: &PgPool, within: Duration) -> anyhow::Result<Duration> {
    let began = Instant::now();
    loop {
        let open = open_jobs(rows).await?;
        if open == 0 {
            return Ok(began.elapsed());
        }
        if began.elapsed() > within {
            bail!("{open} jobs are still open after {within:?}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Waits until every job has ended, however long that takes, as long as jobs end.
///
/// # Errors
///
/// For `standstill` no job has ended, and some are open.
pub async fn drained_without_standstill(rows: &PgPool, standstill: Duration) -> anyhow::Result<()> {
    let (mut fewest, mut since) = (i64::MAX, Instant::now());
    loop {
        let open = open_jobs(rows).await?;
        if open == 0 {
            return Ok(());
        }
        if open < fewest {
            (fewest, since) = (open, Instant::now());
        }
        if since.elapsed() > standstill {
            bail!("{open} jobs are open, and none has ended for {standstill:?}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

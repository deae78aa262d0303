//! Dispatch: puts jobs into the ready queue in Redis, in the order that Postgres gave them.
//!
//! Postgres knows every queued job. The ready queue in Redis holds only the next few. Two callers
//! fill it. The api pushes each job that it has just admitted, so that an idle system starts the
//! job at once. Every worker refills the queue on a schedule. The refill alone is enough to recover
//! from a lost push, a backlog, a due retry or an emptied Redis. Neither caller keeps state, and
//! neither pushes a job whose lanes are unavailable. A worker that pops an id claims the job: read
//! the worker's `tasks/generate.rs` next.

mod marks;

use sqlx::PgPool;

use crate::failpoint::reach;
use domain::catalog::Catalog;
use domain::job::{Capacity, Job};
use queue::{Lanes, QueueError, ReadyQueue};
use storage::database::PostgresError;

pub use marks::SearchMarks;

/// Pushes a job that was just admitted, unless its lanes are unavailable.
///
/// A failure is logged and not returned: the job is safe in Postgres, and the next refill finds it.
pub async fn push_new(lanes: &Lanes, catalog: &Catalog, job: &Job) {
    let pushed = async {
        let Some(model) = catalog.get(&job.attributes.model) else {
            return Ok(());
        };
        reach("dispatch:before_ring").await?;
        let lanes_of_job = model.lanes(job.attributes.fallback);
        lanes
            .push_new(job.id, job.virtual_time, job.tenant, lanes_of_job)
            .await?;
        Ok::<(), FillError>(())
    };
    if let Err(error) = pushed.await {
        tracing::debug!(job.id = %job.id, %error, "The job was not pushed to the ready queue; a worker's dispatcher will push it");
    }
}

/// Why the ready queue was not refilled.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// Redis failed.
    #[error("Redis: {0}")]
    Queue(#[from] QueueError),
    /// Postgres failed.
    #[error("Postgres: {0}")]
    Database(#[from] sqlx::Error),
}

impl PostgresError for FillError {
    fn postgres(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::Queue(_) => None,
        }
    }
}

/// Announces this worker and its `slots` to Redis. If the ready queue is half empty, fills it up to
/// its target size with the next due jobs. Returns how many ids were new in the queue.
///
/// # Errors
/// Returns a [`FillError`] if Redis or Postgres fails. The next refill repeats everything.
pub async fn fill(
    pool: &PgPool,
    queue: &ReadyQueue,
    worker: &str,
    slots: usize,
    capacity: &Capacity,
    marks: &SearchMarks,
) -> Result<usize, FillError> {
    let target = queue.announce(worker, slots).await?;
    if !target.is_half_empty() {
        return Ok(0);
    }
    // As many jobs are read as the queue should hold, not only as many as are missing: the first
    // due jobs may be those that are in the queue already, and a smaller limit could find only
    // these.
    let due = marks.search(pool, target.size, capacity).await?;
    reach("dispatch:before_top_up").await?;
    Ok(queue.push(target.size, &due).await?)
}

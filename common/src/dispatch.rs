//! Dispatch: which jobs Redis rings for, in the order Postgres gave.
//!
//! Postgres knows every queued job; the ring in Redis holds only the next few. The api rings a job it has just
//! admitted, so that an idle system starts it at once; every worker tops the ring up, so that a lost ring, a
//! backlog, a retry that is due or an emptied Redis need nothing else. Neither keeps any state, and neither rings
//! for a job whose lanes are closed. A worker that pops an id claims the job: read the worker's
//! `tasks/generate.rs` next.

use sqlx::PgPool;

use crate::failpoint::reach;
use domain::catalog::Catalog;
use domain::job::{Capacity, Job};
use queue::{Lanes, QueueError, ReadyQueue};
use storage::database::PostgresError;

/// Rings for a job that was just admitted, unless its lanes are closed. Loses nothing when it fails: a top-up
/// finds the job.
pub async fn push_new(ring: &ReadyQueue, lanes: &Lanes, catalog: &Catalog, job: &Job) {
    let rung = async {
        let Some(model) = catalog.get(&job.model) else {
            return Ok(());
        };
        let of_model: Vec<_> = model.lanes(job.fallback).iter().collect();
        let open = domain::lanes::available_models([model], &lanes.states_of(&of_model).await?);
        if open.admits(job) {
            reach("dispatch:before_ring").await?;
            ring.push_new(job.id, job.virtual_time).await?;
        }
        Ok::<(), FillError>(())
    };
    if let Err(error) = rung.await {
        tracing::debug!(job.id = %job.id, %error, "The ring failed; a worker's dispatcher will ring for the job");
    }
}

/// Why the ring was not topped up.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    #[error("Redis: {0}")]
    Queue(#[from] QueueError),
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

/// Tells Redis that this worker lives and rings for the next due jobs while the ring is below its target.
/// Returns how many were added.
pub async fn fill(
    pool: &PgPool,
    ring: &ReadyQueue,
    worker: &str,
    slots: usize,
    open: &Capacity,
) -> Result<usize, FillError> {
    let target = ring.announce(worker, slots).await?;
    if target.capacity == 0 {
        return Ok(0);
    }
    let due = storage::jobs::due(pool, target.size, open).await?;
    reach("dispatch:before_top_up").await?;
    Ok(ring.push(&due).await?)
}

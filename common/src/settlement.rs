//! Settlement: the one transaction that ends a job. Artifacts, credits and state change together.
//!
//! Several processes may try to end the same job at once. The lock on the job's row lets exactly
//! one of them win. A worker may end the job only with the fence it claimed it with. Those without
//! a lease (the tenant, an operator, the deadline, the reaper) may end it only while it is open.
//! Whoever comes later learns how the job ended and changes nothing.
//!
//! Here a worker ends the job that it holds. The other ways are in files of their own: `cancel`,
//! `expire` and `requeue`. They take their locks with `lock`, and end a job with `end`.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::wildcard_enum_match_arm
)]

mod abandoned;
mod cancel;
mod end;
mod expire;
mod lock;
mod requeue;

use sqlx::PgPool;

use domain::artifact::{self, Artifact};
use domain::credits::InvalidCredits;
use domain::id::{JobId, TenantId};
use domain::job::State;
use domain::outcome::{Class, Failure};
use storage::database::row::RowId;
use storage::database::{self, UnexpectedRowCount};

pub use cancel::{Canceler, Cancellation, cancel};
use end::{JobEnd, end_and_commit};
pub use expire::expire;
use lock::lock_leased;
pub use requeue::{put_back, reap, retry};

/// A worker's right to work on a job and to end it: tenant, job and fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The tenant that owns the job.
    pub tenant: TenantId,
    /// The job.
    pub job: JobId,
    /// Number of the worker's attempt. The lease is lost when the job's row has a higher number, or
    /// when the job is no longer running.
    pub fence: i32,
}

/// Result of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettlementResult {
    /// This settlement ended the job, in this state.
    Ended(State),
    /// The job went back to the queue.
    Requeued,
    /// The deadline was moved, because calls have begun and the owner's cancel allowance is used
    /// up.
    Extended,
    /// The job had already ended, in this state. Nothing changed.
    AlreadyEnded(State),
    /// The attempt does not hold the job any more: another one holds it, or the job is queued
    /// again. Nothing changed.
    Fenced,
    /// There is no such job, or there is no longer a reason to change it.
    NotFound,
}

/// Why a settlement failed. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum SettlementError {
    /// The amount to capture is above the hold, or cannot be computed.
    #[error(transparent)]
    Amount(#[from] InvalidCredits),
    /// The job's shares in its lots are smaller than the amount to capture. The ledger is
    /// inconsistent: run `platen verify`.
    #[error("job {0} holds less in its lots than it must capture: run `platen verify`")]
    SharesDoNotCover(JobId),
    /// The job's row was not in the state that was read under the lock.
    #[error(transparent)]
    UnexpectedRowCount(#[from] UnexpectedRowCount),
    /// Postgres failed. If the connection broke during the commit, the job may have ended all the
    /// same. A second try then returns [`SettlementResult::AlreadyEnded`].
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl database::PostgresError for SettlementError {
    fn postgres(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::Amount(_) | Self::SharesDoNotCover(_) | Self::UnexpectedRowCount(_) => None,
        }
    }
}

/// Ends a job that delivered at least one output: captures the price of the delivered outputs and
/// releases the rest of the hold. `artifacts` are the stored files, and each rendition among them
/// is one delivered output. `shortfall` says why outputs are missing. It is `None` if all were
/// delivered.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be settled. Nothing is written in that case, and
/// the worker may try again while it holds the lease.
pub async fn deliver(
    pool: &PgPool,
    lease: Lease,
    artifacts: &[Artifact],
    shortfall: Option<&Failure>,
) -> Result<SettlementResult, SettlementError> {
    let (mut transaction, job) = match lock_leased(pool, lease).await {
        Ok(locked) => locked,
        Err(error) => return error.into_settlement_result(),
    };
    let attempt = (lease.job, lease.fence);
    storage::artifacts::insert(&mut transaction, lease.tenant, attempt, artifacts).await?;
    // Originals and thumbnails are extra files of the same output and are not charged.
    let delivered = artifacts
        .iter()
        .filter(|artifact| artifact.kind == artifact::ArtifactKind::Rendition)
        .count();
    let outcome = shortfall.map_or(Class::Ok, |failure| failure.class);
    let reason = shortfall.map_or_else(|| Class::Ok.customer_message(), Failure::customer_message);
    let end = JobEnd {
        state: None,
        delivered: RowId::new("jobs", lease.job).convert("n_delivered", delivered)?,
        outcome,
        reason,
    };
    end_and_commit((transaction, job), end).await
}

/// Ends a job that delivered nothing: the job fails, and the whole hold is released.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be settled. Nothing is written in that case.
pub async fn give_up(
    pool: &PgPool,
    lease: Lease,
    failure: &Failure,
) -> Result<SettlementResult, SettlementError> {
    match lock_leased(pool, lease).await {
        Ok(locked) => {
            end_and_commit(
                locked,
                JobEnd {
                    state: Some(State::Failed),
                    delivered: 0,
                    outcome: failure.class,
                    reason: failure.customer_message(),
                },
            )
            .await
        }
        Err(error) => error.into_settlement_result(),
    }
}

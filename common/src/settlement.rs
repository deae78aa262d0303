//! Settlement: the one transaction that ends a job. Artifacts, credits and state change together.
//!
//! Several processes may try to end the same job at once. The lock on the job's row lets exactly
//! one of them win. A worker may end the job only with the fence it claimed it with. Those without
//! a lease (the tenant, an operator, the deadline, the reaper) may end it only while it is open.
//! Whoever comes later learns how the job ended and changes nothing.
//!
//! Each way to end a job has a file of its own: `deliver` (a worker ends jobs that it holds), `cancel`,
//! `expire` and `requeue`. They take their locks with `lock`, and end a job with `end`.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::wildcard_enum_match_arm
)]

mod abandoned;
mod cancel;
mod deliver;
mod end;
mod expire;
mod lock;
mod requeue;

use domain::credits::InvalidCredits;
use domain::id::{JobId, TenantId};
use domain::job::State;
use storage::database::{self, UnexpectedRowCount};

pub use cancel::{Canceler, Cancellation, cancel};
pub use deliver::{Delivery, deliver, deliver_all};
pub use expire::expire;
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

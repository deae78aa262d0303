//! The end of a locked job: the hold is resolved, the row is written, and the rest follows from it.

use sqlx::PgConnection;

use super::lock::LockedJob;
use super::{SettlementError, SettlementResult};
use crate::failpoint::reach;
use domain::credits::Credits;
use domain::job::{Job, State};
use domain::ledger::{self, Hold, Transfer};
use domain::outcome::Class;
use storage::database::row::RowId;
use storage::jobs::{End, Ended};

/// How a job is to end.
pub(super) struct JobEnd<'a> {
    /// The final state. With `None`, the number of delivered outputs decides between succeeded,
    /// partial and failed.
    pub(super) state: Option<State>,
    /// Delivered outputs.
    pub(super) delivered: i32,
    /// Class of the outcome.
    pub(super) outcome: Class,
    /// Why the job ended, in words for the customer, without what was charged.
    pub(super) reason: &'a str,
}

impl JobEnd<'static> {
    /// An end without a delivered output. The reason is the message of the class.
    pub(super) fn without_delivery(state: State, outcome: Class) -> Self {
        Self {
            state: Some(state),
            delivered: 0,
            outcome,
            reason: outcome.customer_message(),
        }
    }
}

/// Ends the locked job and commits.
pub(super) async fn end_and_commit(
    (mut transaction, job): LockedJob,
    job_end: JobEnd<'_>,
) -> Result<SettlementResult, SettlementError> {
    let state = end(&mut transaction, &job, job_end).await?;
    reach("settlement:before_commit").await?;
    transaction.commit().await?;
    reach("settlement:after_commit").await?;
    Ok(SettlementResult::Ended(state))
}

/// Ends the locked, open job: resolves the hold, writes the end into the job's row, ends the calls
/// that are still open, and plans when the job's files are deleted. Returns the final state.
///
/// The order is fixed. Grants are changed after the wallet and the job were locked, and calls are
/// ended after the job was locked, as in every transaction. So no two transactions can deadlock.
pub(super) async fn end(
    connection: &mut PgConnection,
    job: &Job,
    job_end: JobEnd<'_>,
) -> Result<State, SettlementError> {
    let delivered = RowId::new("jobs", job.id).convert("n_delivered", job_end.delivered)?;
    // The price on the job's row, not today's price: the hold was made with it.
    let captured = job.cost.unit_price.times(delivered)?;
    let resolution = Hold {
        job: job.id,
        amount: job.cost.held,
    }
    .resolve(captured)?;
    // The captured credits are taken from the lots in burn-down order, as the hold was. The rest
    // goes back to the lots it came from, so credits keep their expiry.
    let shares = storage::ledger::shares(connection, job.id).await?;
    let consumed =
        ledger::consume(&shares, captured).ok_or(SettlementError::SharesDoNotCover(job.id))?;
    let transfers: Vec<Transfer> = resolution.transfers().collect();
    storage::ledger::resolve(connection, job.tenant, &shares, &consumed, &transfers).await?;
    let state = job_end.state.unwrap_or(match job_end.delivered {
        0 => State::Failed,
        some if some < job.n_requested => State::Partial,
        _ => State::Succeeded,
    });
    let row = End {
        id: job.id,
        state,
        outcome: job_end.outcome,
        reason: &full_reason(job, job_end.delivered, captured, job_end.reason),
        delivered: job_end.delivered,
        captured,
        released: resolution.released,
    };
    // Fails if the row is terminal in spite of the lock. The caller then rolls back, also the
    // credits.
    let ended: Ended = storage::jobs::end::<SettlementError>(connection, &row).await?;
    if ended.has_inputs {
        storage::uploads::touch_all_of(connection, job.id).await?;
    }
    if ended.has_retention {
        storage::retention::plan(connection, job.tenant, job.id).await?;
    }
    Ok(state)
}

/// The `reason` that the tenant reads: `why`, and, unless all images were delivered, what was
/// delivered and charged.
fn full_reason(job: &Job, delivered: i32, captured: Credits, why: &str) -> String {
    if delivered == 0 {
        format!("{why} Nothing was charged.")
    } else if delivered == job.n_requested {
        why.to_owned()
    } else {
        let requested = job.n_requested;
        format!(
            "{delivered} of {requested} images were delivered, for {captured}. Of the rest: {why}"
        )
    }
}

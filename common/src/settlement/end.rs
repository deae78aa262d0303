//! The end of a locked job: the hold is resolved, the row is written, and the rest follows from it.

use sqlx::PgConnection;

use super::lock::LockedJob;
use super::{SettlementError, SettlementResult};
use crate::failpoint::reach;
use domain::credits::Credits;
use domain::id::TenantId;
use domain::job::{Job, State};
use domain::ledger::{self, Hold, Share};
use domain::outcome::Class;
use storage::database::row::RowId;
use storage::settlements::End;

/// How a job is to end.
#[derive(Clone, Copy)]
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

/// Ends the locked, open job, and returns its final state.
pub(super) async fn end(
    connection: &mut PgConnection,
    job: &Job,
    job_end: JobEnd<'_>,
) -> Result<State, SettlementError> {
    let shares = storage::settlements::shares(connection, &[job.id]).await?;
    let shares = shares.into_iter().map(|(_, share)| share).collect();
    let end = plan(job, shares, job_end)?;
    let state = end.state;
    write(connection, job.tenant, &[end]).await?;
    Ok(state)
}

/// Everything that is written when an open job ends. `shares` are the shares of its hold in burn-down
/// order.
///
/// # Errors
/// Returns an error if the hold cannot be resolved.
pub(super) fn plan(
    job: &Job,
    shares: Vec<Share>,
    job_end: JobEnd<'_>,
) -> Result<End, SettlementError> {
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
    let consumed =
        ledger::consume(&shares, captured).ok_or(SettlementError::SharesDoNotCover(job.id))?;
    Ok(End {
        id: job.id,
        state: job_end.state.unwrap_or(match job_end.delivered {
            0 => State::Failed,
            some if some < job.n_requested => State::Partial,
            _ => State::Succeeded,
        }),
        outcome: job_end.outcome,
        reason: full_reason(job, job_end.delivered, captured, job_end.reason),
        delivered: job_end.delivered,
        resolution,
        shares: shares.into_iter().zip(consumed).collect(),
    })
}

/// Writes the ends of locked, open jobs of a tenant, and what follows from them: uploads count as
/// used, and the deletion of the jobs' files is planned.
///
/// The order is fixed. Grants are changed after the wallet and the jobs were locked, and calls are
/// ended after their jobs were locked, as in every transaction. So no two transactions can deadlock.
pub(super) async fn write(
    connection: &mut PgConnection,
    tenant: TenantId,
    ends: &[End],
) -> Result<(), SettlementError> {
    // Fails if a row is terminal in spite of the lock. The caller then rolls back, also the
    // credits.
    let ended = storage::settlements::write::<SettlementError>(connection, tenant, ends).await?;
    for job in ended {
        if job.has_inputs {
            storage::uploads::touch_all_of(connection, job.id).await?;
        }
        if job.has_retention {
            storage::retention::plan(connection, tenant, job.id).await?;
        }
    }
    Ok(())
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

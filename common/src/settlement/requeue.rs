//! A job goes back to the queue: a worker gives it back, or its lease has expired. The hold stays.

use std::time::Duration;

use sqlx::PgPool;

use super::end::{JobEnd, end_and_commit};
use super::lock::lock_wallet_and_job;
use super::{Lease, SettlementError, SettlementResult};
use crate::failpoint::reach;
use domain::id::{JobId, TenantId};
use domain::job::State;
use domain::outcome::{Class, Failure};
use storage::database;
use storage::jobs::Requeue;

/// How many leases of one job may expire: with the last of them the job fails as poison. Without a
/// limit, a job that kills its worker would kill one worker after the other.
const MAX_CRASHES: i32 = 3;

/// Puts a job back into the queue for another attempt after `delay`, with the outcome of this
/// attempt. The hold stays.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be requeued. The lease then stays until it
/// expires, and the reaper requeues the job.
pub async fn retry(
    pool: &PgPool,
    lease: Lease,
    delay: Duration,
    failure: &Failure,
) -> Result<SettlementResult, SettlementError> {
    let outcome = Some((failure.class, failure.customer_message()));
    requeue(pool, lease, delay, outcome).await
}

/// Puts a job back into the queue without an outcome, because nothing failed: its lanes are
/// unavailable, or a provider still works on it.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be requeued. The lease then stays until it
/// expires, and the reaper requeues the job.
pub async fn put_back(
    pool: &PgPool,
    lease: Lease,
    delay: Duration,
) -> Result<SettlementResult, SettlementError> {
    requeue(pool, lease, delay, None).await
}

/// Requeues a job. No credits move, so the wallet is not locked, and workers with jobs of one
/// tenant do not wait for each other. The fence in the UPDATE is enough to stop a worker that lost
/// its lease.
async fn requeue(
    pool: &PgPool,
    lease: Lease,
    delay: Duration,
    outcome: Option<(Class, &str)>,
) -> Result<SettlementResult, SettlementError> {
    let mut transaction = database::begin_for(pool, lease.tenant).await?;
    let requeued = storage::jobs::requeue(
        &mut transaction,
        &Requeue {
            id: lease.job,
            fence: lease.fence,
            delay,
            crashed: false,
            outcome,
        },
    )
    .await?;
    if requeued.has_changed() {
        reach("requeue:before_commit").await?;
        transaction.commit().await?;
        reach("requeue:after_commit").await?;
        return Ok(SettlementResult::Requeued);
    }
    // The UPDATE matched no row. This read only finds the reason to report.
    Ok(
        match storage::jobs::get(&mut transaction, lease.job).await? {
            None => SettlementResult::NotFound,
            Some(job) if job.state.is_terminal() => SettlementResult::AlreadyEnded(job.state),
            Some(_) => SettlementResult::Fenced,
        },
    )
}

/// Takes a job from a worker whose lease has expired. The job goes back to the queue. With the
/// third expired lease ([`MAX_CRASHES`]) it fails as poison.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be settled. Nothing is written in that case, and
/// the next run of the reaper tries again.
pub async fn reap(
    pool: &PgPool,
    tenant: TenantId,
    id: JobId,
) -> Result<SettlementResult, SettlementError> {
    let Some((mut transaction, job)) = lock_wallet_and_job(pool, tenant, id).await? else {
        return Ok(SettlementResult::NotFound);
    };
    // Checked again under the lock: the worker may have renewed its lease or settled the job since
    // the reaper listed it.
    if job.state != State::Running
        || !storage::jobs::lease_has_expired(&mut transaction, id).await?
    {
        return Ok(SettlementResult::NotFound);
    }
    if job.crash_count.saturating_add(1) >= MAX_CRASHES {
        let end = JobEnd::without_delivery(State::Failed, Class::Poison);
        return end_and_commit((transaction, job), end).await;
    }
    storage::jobs::requeue(
        &mut transaction,
        &Requeue {
            id,
            fence: job.fence,
            delay: Duration::ZERO,
            crashed: true,
            outcome: None,
        },
    )
    .await?
    .required()?;
    reach("reap:before_commit").await?;
    transaction.commit().await?;
    reach("reap:after_commit").await?;
    Ok(SettlementResult::Requeued)
}

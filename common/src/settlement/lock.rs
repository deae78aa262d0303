//! The locks of a settlement: the wallet, then the job.

use sqlx::PgPool;

use super::{Lease, SettlementResult};
use domain::id::{JobId, TenantId};
use domain::job::{Job, State};
use storage::database;

/// An open transaction, and the job whose row and wallet it has locked.
pub(super) type LockedJob = (database::Transaction, Job);

/// Checks that a lease is still valid. `job` is the locked job, or `None` if there is no such job.
///
/// # Errors
/// If the lease is not valid any more, returns what happened to the job.
pub(super) fn check_lease(job: Option<&Job>, lease: Lease) -> Result<&Job, SettlementResult> {
    let job = job.ok_or(SettlementResult::NotFound)?;
    if job.state.is_terminal() {
        return Err(SettlementResult::AlreadyEnded(job.state));
    }
    // A worker may settle with an expired lease as long as nobody has claimed or requeued the job:
    // the work is done and paid for. Only the fence decides, not the time.
    if job.state != State::Running || job.fence != lease.fence {
        return Err(SettlementResult::Fenced);
    }
    Ok(job)
}

/// Locks the wallet first and the job second. Every transaction that moves credits keeps this
/// order, so no two of them can deadlock. `None` if the tenant has no such job.
pub(super) async fn lock_wallet_and_job(
    pool: &PgPool,
    tenant: TenantId,
    id: JobId,
) -> sqlx::Result<Option<LockedJob>> {
    let mut transaction = database::begin_with_wallet(pool, tenant).await?;
    let job = storage::jobs::lock(&mut transaction, &[id]).await?.pop();
    let job = job.filter(|job| job.tenant == tenant);
    Ok(job.map(|job| (transaction, job)))
}

//! The locks of a settlement: the wallet, then the job.

use sqlx::PgPool;

use super::{Lease, SettlementError, SettlementResult};
use domain::id::{JobId, TenantId};
use domain::job::{Job, State};
use storage::database;

/// An open transaction, and the job whose row and wallet it has locked.
pub(super) type LockedJob = (database::Transaction, Job);

/// Why a leased job was not locked.
pub(super) enum LeaseError {
    /// The lease is no longer valid. Says what happened to the job.
    Lost(SettlementResult),
    /// Postgres failed.
    Failed(sqlx::Error),
}

impl LeaseError {
    /// How a settlement that needed the lease ends.
    pub(super) fn into_settlement_result(self) -> Result<SettlementResult, SettlementError> {
        match self {
            Self::Lost(settled) => Ok(settled),
            Self::Failed(error) => Err(error.into()),
        }
    }
}

impl From<sqlx::Error> for LeaseError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error)
    }
}

/// Locks the wallet and the job, and checks that the lease is still valid.
pub(super) async fn lock_leased(pool: &PgPool, lease: Lease) -> Result<LockedJob, LeaseError> {
    let Some((transaction, job)) = lock_wallet_and_job(pool, lease.tenant, lease.job).await? else {
        return Err(LeaseError::Lost(SettlementResult::NotFound));
    };
    if job.state.is_terminal() {
        return Err(LeaseError::Lost(SettlementResult::AlreadyEnded(job.state)));
    }
    // A worker may settle with an expired lease as long as nobody has claimed or requeued the job:
    // the work is done and paid for. Only the fence decides, not the time.
    if job.state != State::Running || job.fence != lease.fence {
        return Err(LeaseError::Lost(SettlementResult::Fenced));
    }
    Ok((transaction, job))
}

/// Locks the wallet first and the job second, and then reads the job. Every transaction that moves
/// credits keeps this order, so no two of them can deadlock. `None` if the tenant has no such job.
pub(super) async fn lock_wallet_and_job(
    pool: &PgPool,
    tenant: TenantId,
    id: JobId,
) -> sqlx::Result<Option<LockedJob>> {
    let mut transaction = database::begin_with_wallet_and_job(pool, tenant, id).await?;
    let job = storage::jobs::get(&mut transaction, id).await?;
    let job = job.filter(|job| job.tenant == tenant);
    Ok(job.map(|job| (transaction, job)))
}

//! Begins transactions that lock rows at once: the first round trip sets the tenant and takes the
//! locks. Each lock is a statement of its own, so the statements that follow see everything that
//! was committed before the lock was granted.

use sqlx::PgPool;

use super::begin::{begin_and_lock_wallet, begin_with};
use super::transaction::Transaction;
use domain::id::{JobId, TenantId};

/// Does the same as [`super::begin_for`], and locks the job's row until the transaction ends. If
/// there is no such job, nothing is locked.
///
/// # Errors
/// Returns an error if the lock is not free within 2 seconds, if Postgres fails, or if no
/// connection becomes free within 10 seconds.
pub async fn begin_with_job(
    pool: &PgPool,
    tenant: TenantId,
    job: JobId,
) -> sqlx::Result<Transaction> {
    let (tenant, job) = (tenant.0, job.0);
    begin_with(
        pool,
        format!("-- job::begin_with_job\nBEGIN; SELECT lock_job('{tenant}', '{job}')"),
    )
    .await
}

/// Does the same as [`super::begin_for`], and locks the tenant's wallet and then the job's row
/// until the transaction ends. Every transaction that moves credits keeps this order, so no two of
/// them can deadlock.
///
/// # Errors
/// Returns an error if a lock is not free within 2 seconds, if Postgres fails, or if no connection
/// becomes free within 10 seconds.
pub async fn begin_with_wallet_and_job(
    pool: &PgPool,
    tenant: TenantId,
    job: JobId,
) -> sqlx::Result<Transaction> {
    let locked = begin_and_lock_wallet(tenant);
    let (tenant, job) = (tenant.0, job.0);
    begin_with(
        pool,
        format!(
            "-- ledger::begin_with_wallet_and_job\n{locked}; SELECT lock_job('{tenant}', '{job}')"
        ),
    )
    .await
}

//! Ends a job because its deadline has passed.

use std::time::Duration;

use sqlx::PgPool;

use super::abandoned::record_abandoned_calls;
use super::end::{JobEnd, end_and_commit};
use super::lock::lock_wallet_and_job;
use super::{SettlementError, SettlementResult};
use domain::id::{JobId, TenantId};
use domain::job::State;
use domain::outcome::Class;

/// Ends an open job whose deadline has passed, and releases its hold.
///
/// If calls have begun and the tenant's `allowance` does not cover them, the deadline is moved
/// instead, once, to now plus `more(model)`. The job can then deliver what the calls make, and is
/// charged for it. Without this rule, a tenant could use short deadlines to cancel without limit.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be settled. Nothing is written in that case, and
/// the next run of the task tries again.
pub async fn expire(
    pool: &PgPool,
    (tenant, id): (TenantId, JobId),
    allowance: u32,
    more: impl FnOnce(&str) -> Duration,
) -> Result<SettlementResult, SettlementError> {
    let Some((mut transaction, job)) = lock_wallet_and_job(pool, tenant, id).await? else {
        return Ok(SettlementResult::NotFound);
    };
    if job.state.is_terminal() {
        return Ok(SettlementResult::AlreadyEnded(job.state));
    }
    // Another worker may have moved the deadline since the job was found.
    if !storage::jobs::deadline_has_passed(&mut transaction, id).await? {
        return Ok(SettlementResult::NotFound);
    }
    // `extend` moves a deadline only once. The second time the job expires although the allowance
    // is used up, so a provider that never answers cannot keep the job open.
    if record_abandoned_calls(&mut transaction, &job, allowance)
        .await?
        .is_some()
        && storage::jobs::extend(&mut transaction, id, more(&job.attributes.model)).await?
    {
        transaction.commit().await?;
        return Ok(SettlementResult::Extended);
    }
    end_and_commit(
        (transaction, job),
        JobEnd::without_delivery(State::Expired, Class::Expired),
    )
    .await
}

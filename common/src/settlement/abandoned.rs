//! The cancel allowance: calls that an owner abandons by ending its job.

use sqlx::PgConnection;

use domain::allowance::AllowanceUsage;
use domain::job::Job;

/// Records the calls that the tenant abandons by ending this job, and returns `None`. If the
/// tenant's allowance does not cover them, records nothing, and returns what the tenant has used of
/// it.
///
/// The caller holds the wallet's lock, so two cancellations cannot both use the last call of the
/// allowance.
pub(super) async fn record_abandoned_calls(
    connection: &mut PgConnection,
    job: &Job,
    allowance: u32,
) -> sqlx::Result<Option<AllowanceUsage>> {
    let begun = storage::allowances::count_begun_calls(connection, &[job.id]).await?;
    let Some(&begun) = begun.get(&job.id) else {
        return Ok(None);
    };
    let used = storage::allowances::used(connection, job.tenant).await?;
    if !used.allows(begun, allowance) {
        return Ok(Some(used));
    }
    storage::allowances::abandon(connection, job.id).await?;
    Ok(None)
}

//! SQL of the cancel allowance.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use domain::allowance::AllowanceUsage;
use domain::id::{JobId, TenantId};

/// Reads what a tenant has used of its cancel allowance in the last hour. The result is exact only
/// while the caller holds the wallet's lock, because every transaction that abandons calls of this
/// tenant takes that lock first.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn used(connection: &mut PgConnection, tenant: TenantId) -> sqlx::Result<AllowanceUsage> {
    let row = sqlx::query!(
        r#"-- allowance::used
        SELECT count(*) AS "calls!", coalesce(extract(epoch FROM min(at) + interval '1 hour' - clock_timestamp()), 60)::float8 AS "seconds!"
        FROM abandoned_calls WHERE tenant_id = $1 AND at > now() - interval '1 hour'"#,
        tenant as TenantId
    )
    .fetch_one(connection)
    .await?;
    // Whole seconds, rounded up, because the value becomes a `Retry-After`, and a retry must not
    // come too early. They are at most an hour, so they are always a duration.
    let seconds = row.seconds.ceil().max(1.0);
    Ok(AllowanceUsage {
        calls: row.calls,
        retry_after: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
    })
}

/// Counts how many calls of each job would be abandoned if the job were canceled or expired now.
/// Jobs without such calls are not in the result.
///
/// A call counts while it is open, and if it has made its image (`object_key`). A call that ended
/// without an image does not count: the provider failed, not the tenant.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn count_begun_calls(
    connection: &mut PgConnection,
    jobs: &[JobId],
) -> sqlx::Result<HashMap<JobId, i64>> {
    let rows = sqlx::query!(
        r#"-- allowance::count_begun_calls
        SELECT job_id, count(*) AS "calls!" FROM calls WHERE job_id = ANY($1) AND (ended_at IS NULL OR object_key IS NOT NULL) GROUP BY job_id"#,
        jobs as &[JobId]
    )
    .fetch_all(connection)
    .await?;
    let calls = rows.into_iter().map(|row| (JobId(row.job_id), row.calls));
    Ok(calls.collect())
}

/// Records the abandoned calls of a job. Must run in the transaction that ends the job, before the
/// job's calls are ended. Afterwards an open call looks like a failed one.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn abandon(connection: &mut PgConnection, job: JobId) -> sqlx::Result<()> {
    sqlx::query!(
        "-- allowance::abandon
        INSERT INTO abandoned_calls (call_id, tenant_id)
        SELECT id, tenant_id FROM calls WHERE job_id = $1 AND (ended_at IS NULL OR object_key IS NOT NULL)",
        job as JobId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What abandoned calls cost us in the last hour, in millionths of a US dollar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// The sum over all tenants.
    pub all: i64,
    /// The sum of the tenant with the highest sum.
    pub one_tenant: i64,
}

/// Sums up the cost of the calls that were abandoned in the last hour. `pool` must be allowed to
/// read every tenant's rows. The cost of the query grows only with the number of those calls.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn cost(pool: &PgPool) -> sqlx::Result<Cost> {
    sqlx::query_as!(
        Cost,
        r#"-- allowance::cost
        SELECT coalesce(sum(micros), 0)::bigint AS "all!", coalesce(max(micros), 0)::bigint AS "one_tenant!" FROM (
          SELECT a.tenant_id, sum(c.cost_micros)::bigint AS micros FROM abandoned_calls a JOIN calls c ON c.id = a.call_id
          WHERE a.at > now() - interval '1 hour' GROUP BY a.tenant_id) tenants"#
    )
    .fetch_one(pool)
    .await
}

//! SQL of the totals of how much tenants store.

use std::time::Duration;

use sqlx::{PgConnection, PgExecutor, PgPool};

use crate::billing::Folded;
use domain::id::{JobId, TenantId};
use domain::storage_limit::StorageUsage;

/// Most lines that one call of [`fold`] adds up.
const MAX_LINES_PER_FOLD: i64 = 50_000;

/// Reads how much a tenant stores. A caller that decides about the storage limit must hold the lock
/// of the tenant's wallet, so that concurrent requests cannot exceed the limit together.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn stored(connection: &mut PgConnection, tenant: TenantId) -> sqlx::Result<StorageUsage> {
    let bytes = sqlx::query_scalar!(
        r#"-- storage::stored
        SELECT t.bytes + coalesce((SELECT sum(l.bytes) FROM storage_lines l WHERE l.tenant_id = t.tenant_id), 0)::bigint AS "bytes"
        FROM storage_totals t WHERE t.tenant_id = $1"#,
        tenant as TenantId
    )
    .fetch_optional(connection)
    .await?;
    Ok(StorageUsage {
        bytes: bytes.flatten(),
    })
}

/// Reads how much all tenants store together. `pool` must act as `platen_reader`. For tenants whose
/// files are not counted yet ([`uncounted`]), only later changes are included.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn all(pool: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"-- storage::all
        SELECT (coalesce((SELECT sum(bytes) FROM storage_totals), 0) + coalesce((SELECT sum(bytes) FROM storage_lines), 0))::bigint AS "bytes!""#
    )
    .fetch_one(pool)
    .await
}

/// Moves lines with the number `from` or a higher one into their tenants' totals, the lowest
/// numbers first, at most 50,000. This is one statement, so no reader sees another sum of total
/// and lines. An advisory lock lets only one process fold at a time; the others fold nothing
/// and return at once. Lines of tenants whose files are not counted yet stay, so a caller begins at
/// the lowest number from time to time.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn fold(executor: impl PgExecutor<'_>, from: i64) -> sqlx::Result<Folded> {
    sqlx::query_as!(
        Folded,
        r#"-- storage::fold
        WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('platen storage')) AS lock),
        oldest AS MATERIALIZED (
          SELECT l.id FROM storage_lines l JOIN storage_totals t USING (tenant_id), mine WHERE mine.lock AND t.bytes IS NOT NULL AND l.id >= $2 ORDER BY l.id LIMIT $1),
        folded AS (DELETE FROM storage_lines USING oldest WHERE storage_lines.id = oldest.id RETURNING storage_lines.id, tenant_id, storage_lines.bytes),
        added AS (
          UPDATE storage_totals t SET bytes = t.bytes + f.bytes
          FROM (SELECT tenant_id, sum(bytes)::bigint AS bytes FROM folded GROUP BY tenant_id) f WHERE t.tenant_id = f.tenant_id)
        SELECT count(*) AS "lines!", max(id) AS last FROM folded"#,
        MAX_LINES_PER_FOLD,
        from,
    )
    .fetch_one(executor)
    .await
}

/// Finds up to `limit` tenants whose files are not counted yet.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn uncounted(pool: &PgPool, limit: i64) -> sqlx::Result<Vec<TenantId>> {
    let tenants = sqlx::query_scalar!(
        "-- storage::uncounted
        SELECT tenant_id FROM storage_totals WHERE bytes IS NULL LIMIT $1",
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(tenants.into_iter().map(TenantId).collect())
}

/// Sets the total of a tenant whose files are not counted yet: the sum of the sizes in its rows,
/// minus its lines, in one snapshot. Tenants that are older than the totals need this. It also adds
/// the tenant's jobs that delivered nothing to the list of undelivered inputs. The time for which
/// those inputs are kept begins now.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn count(connection: &mut PgConnection, tenant: TenantId) -> sqlx::Result<()> {
    sqlx::query!(
        "-- storage::count
        UPDATE storage_totals SET bytes = (
          SELECT coalesce(sum(bytes), 0)::bigint FROM (
            SELECT bytes FROM uploads WHERE tenant_id = $1
            UNION ALL SELECT c.bytes FROM jobs j JOIN calls c ON c.job_id = j.id WHERE j.tenant_id = $1 AND c.bytes IS NOT NULL
            UNION ALL SELECT a.bytes FROM jobs j JOIN artifacts a ON a.job_id = j.id WHERE j.tenant_id = $1 AND a.role <> 'original'
            UNION ALL SELECT (i ->> 'bytes')::bigint FROM jobs j JOIN job_requests q ON q.job_id = j.id, jsonb_array_elements(q.generation -> 'inputs') i
              WHERE j.tenant_id = $1 AND NOT i ? 'upload'
            UNION ALL SELECT -bytes FROM deletions WHERE tenant_id = $1 AND deleted_at IS NOT NULL AND class <> 'prompt'
            UNION ALL SELECT -bytes FROM storage_lines WHERE tenant_id = $1) files)
        WHERE tenant_id = $1 AND bytes IS NULL",
        tenant as TenantId
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "-- storage::list_undelivered_inputs
        INSERT INTO undelivered_inputs (job_id, tenant_id, since)
        SELECT j.id, j.tenant_id, now() FROM jobs j JOIN job_requests q ON q.job_id = j.id
        WHERE j.tenant_id = $1 AND j.n_delivered = 0 AND j.finished_at IS NOT NULL
          AND EXISTS (SELECT FROM jsonb_array_elements(q.generation -> 'inputs') i WHERE NOT i ? 'upload')
          AND NOT EXISTS (SELECT FROM deletions d WHERE d.job_id = j.id AND d.class = 'input')
        ON CONFLICT (job_id) DO NOTHING",
        tenant as TenantId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Finds up to `limit` jobs of all tenants that delivered nothing and whose inputs were kept for
/// `max_age`, the longest kept first. The SQL compares with `now()` and not `clock_timestamp()`,
/// because only then Postgres uses the index.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn undelivered(
    pool: &PgPool,
    max_age: Duration,
    limit: i64,
) -> sqlx::Result<Vec<(TenantId, JobId)>> {
    let rows = sqlx::query!(
        "-- storage::undelivered
        SELECT tenant_id, job_id FROM undelivered_inputs WHERE since <= now() - make_interval(secs => $1) ORDER BY since LIMIT $2",
        max_age.as_secs_f64(),
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (TenantId(row.tenant_id), JobId(row.job_id)))
        .collect())
}

/// Makes the inputs that were sent with a job due for deletion now, and removes the job from the
/// list of undelivered inputs, in one statement. Uploads that the job used stay.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn plan_undelivered(connection: &mut PgConnection, job: JobId) -> sqlx::Result<()> {
    sqlx::query!(
        "-- storage::plan_undelivered
        WITH listed AS (DELETE FROM undelivered_inputs WHERE job_id = $1 RETURNING job_id)
        INSERT INTO deletions AS planned (tenant_id, job_id, class, object_key, sha256, bytes, due_at)
        SELECT q.tenant_id, q.job_id, 'input', i ->> 'object_key', decode(i ->> 'sha256', 'hex'), (i ->> 'bytes')::bigint, now()
        FROM listed JOIN job_requests q ON q.job_id = listed.job_id, jsonb_array_elements(q.generation -> 'inputs') i WHERE NOT i ? 'upload'
        ON CONFLICT (object_key) DO UPDATE SET due_at = least(planned.due_at, excluded.due_at) WHERE planned.deleted_at IS NULL",
        job as JobId
    )
    .execute(connection)
    .await?;
    Ok(())
}

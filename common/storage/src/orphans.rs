//! SQL of the search for orphans: what rows say about objects in the bucket.

use std::time::Duration;

use domain::id::TenantId;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

/// The time before which an object must have been written to count as an orphan: `grace` ago, on
/// the database's clock.
pub async fn grace_cutoff(pool: &PgPool, grace: Duration) -> sqlx::Result<OffsetDateTime> {
    sqlx::query_scalar!(
        r#"-- orphans::grace_cutoff
            SELECT clock_timestamp() - make_interval(secs => $1) AS "before!""#,
        grace.as_secs_f64()
    )
    .fetch_one(pool)
    .await
}

/// Whether this database has the tenant.
pub async fn knows_tenant(connection: &mut PgConnection, tenant: TenantId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- orphans::knows_tenant
        SELECT EXISTS (SELECT FROM tenants WHERE id = $1) AS "known!""#,
        tenant as TenantId
    )
    .fetch_one(connection)
    .await
}

/// What rows say about one object.
#[derive(Clone, Debug)]
pub struct Row {
    /// Key of the object.
    pub key: String,
    /// Whether a receipt says that the object was deleted.
    pub receipted: bool,
    /// Whether no row names the object, no deletion of it is planned, and no open job may still name
    /// it.
    pub unnamed: bool,
    /// When the object is due for deletion, by a planned deletion or else by the tenant's
    /// retention. `None` if neither says when, or if a legal hold keeps the object.
    pub due_at: Option<OffsetDateTime>,
}

/// Reads what rows say about these keys of one tenant. `calls` and `jobs` have, for each key, the
/// id of the call or of the job that the key contains. This is one statement, so the result shows
/// one moment.
pub async fn judge(
    connection: &mut PgConnection,
    tenant: TenantId,
    keys: &[String],
    calls: &[Option<Uuid>],
    jobs: &[Option<Uuid>],
) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"-- orphans::judge
        SELECT listed.key AS "key!", planned.deleted_at IS NOT NULL AS "receipted!",
          (planned.id IS NULL OR planned.deleted_at IS NOT NULL)
          AND NOT EXISTS (SELECT FROM artifacts WHERE object_key = listed.key AND tenant_id = $1 AND deleted_at IS NULL)
          AND NOT EXISTS (SELECT FROM calls WHERE object_key = listed.key AND tenant_id = $1)
          AND NOT EXISTS (SELECT FROM uploads WHERE object_key = listed.key AND tenant_id = $1 AND deleted_at IS NULL)
          AND NOT EXISTS (SELECT FROM calls c JOIN jobs j ON j.id = c.job_id WHERE c.id = listed.call_id AND c.tenant_id = $1 AND j.finished_at IS NULL)
          AND NOT EXISTS (SELECT FROM jobs WHERE id = listed.job_id AND tenant_id = $1 AND finished_at IS NULL)
          AND NOT EXISTS (SELECT FROM job_requests WHERE job_id = listed.job_id AND tenant_id = $1
                          AND generation @> jsonb_build_object('inputs', jsonb_build_array(jsonb_build_object('object_key', listed.key)))) AS "unnamed!",
          CASE WHEN EXISTS (SELECT FROM holds h WHERE h.job_id = coalesce(planned.job_id, listed.job_id, c.job_id) AND h.lifted_at IS NULL AND h.until > clock_timestamp()) THEN NULL
            WHEN planned.id IS NOT NULL THEN planned.due_at
            WHEN c.object_key = listed.key THEN j.finished_at + make_interval(secs => r.originals)
            WHEN EXISTS (SELECT FROM job_requests q WHERE q.job_id = listed.job_id AND q.tenant_id = $1
                         AND q.generation @> jsonb_build_object('inputs', jsonb_build_array(jsonb_build_object('object_key', listed.key))))
              THEN j.finished_at + make_interval(secs => r.inputs) END AS due_at
        FROM unnest($2::text[], $3::uuid[], $4::uuid[]) AS listed(key, call_id, job_id)
          LEFT JOIN deletions planned ON planned.object_key = listed.key AND planned.tenant_id = $1
          LEFT JOIN calls c ON c.id = listed.call_id AND c.tenant_id = $1
          LEFT JOIN jobs j ON j.id = coalesce(c.job_id, listed.job_id) AND j.tenant_id = $1
          LEFT JOIN retention r ON r.tenant_id = $1"#,
        tenant as TenantId,
        keys,
        calls as &[Option<Uuid>],
        jobs as &[Option<Uuid>],
    )
    .fetch_all(connection)
    .await
}

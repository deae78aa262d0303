//! SQL of retention. The statements that find due files cover all tenants, and run outside a
//! tenant's transaction, like those that find expired leases.

use std::time::Duration;

use sqlx::{PgConnection, PgExecutor};
use time::OffsetDateTime;

use crate::database::row::RowId;
use domain::id::{JobId, TenantId, UploadId};
use domain::retention::{DeletionReceipt, Due, Purpose, Retention};

/// Reads how long a tenant's files are kept.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn get(connection: &mut PgConnection, tenant: TenantId) -> sqlx::Result<Retention> {
    let row = sqlx::query!(
        "-- retention::get
        SELECT inputs, originals, renditions, uploads, prompts FROM retention WHERE tenant_id = $1",
        tenant as TenantId
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else {
        return Ok(Retention::default());
    };
    let row_id = RowId::new("retention", tenant);
    let seconds =
        |column, value: Option<i64>| value.map(|value| row_id.convert(column, value)).transpose();
    Ok(Retention {
        inputs: seconds("inputs", row.inputs)?,
        originals: seconds("originals", row.originals)?,
        renditions: seconds("renditions", row.renditions)?,
        uploads: seconds("uploads", row.uploads)?,
        prompts: seconds("prompts", row.prompts)?,
    })
}

/// Sets how long a tenant's files are kept. This also plans the deletion of files and prompts of
/// jobs that have ended. A planned deletion never moves to a later time.
///
/// The caller holds the wallet's lock, so no job ends at the same time. Otherwise neither
/// transaction might plan the deletions of that job.
///
/// # Errors
/// Returns an error if a value does not fit its column, or if Postgres fails.
pub async fn set(
    connection: &mut PgConnection,
    tenant: TenantId,
    retention: Retention,
) -> sqlx::Result<()> {
    let row_id = RowId::new("retention", tenant);
    let seconds = |column, value: Option<u64>| -> sqlx::Result<Option<i64>> {
        value.map(|value| row_id.convert(column, value)).transpose()
    };
    sqlx::query!(
        "-- retention::set
        INSERT INTO retention (tenant_id, inputs, originals, renditions, uploads, prompts) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (tenant_id) DO UPDATE SET inputs = $2, originals = $3, renditions = $4, uploads = $5, prompts = $6",
        tenant as TenantId,
        seconds("inputs", retention.inputs)?,
        seconds("originals", retention.originals)?,
        seconds("renditions", retention.renditions)?,
        seconds("uploads", retention.uploads)?,
        seconds("prompts", retention.prompts)?,
    )
    .execute(&mut *connection)
    .await?;
    plan_deletions!("", tenant as TenantId)
        .execute(connection)
        .await?;
    Ok(())
}

/// Plans the deletions of a job that ends now, by its tenant's retention. Must run in the
/// transaction that ends the job.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn plan(connection: &mut PgConnection, tenant: TenantId, job: JobId) -> sqlx::Result<()> {
    plan_deletions!("AND j.id = $2", tenant as TenantId, job as JobId)
        .execute(connection)
        .await?;
    Ok(())
}

/// A statement that plans the deletions of files and prompts of a tenant's ended jobs. `$condition`
/// is the SQL of a further condition on the job `j`. One statement for both uses, with a job that
/// may be null, would read all jobs of the tenant each time.
macro_rules! plan_deletions {
    ($condition:literal, $($arguments:tt)*) => {
        sqlx::query!(
            r#"-- retention::plan
        INSERT INTO deletions AS planned (tenant_id, job_id, class, object_key, sha256, bytes, due_at)
        SELECT r.tenant_id, j.id, file.class, file.object_key, file.sha256, file.bytes, j.finished_at + make_interval(secs => file.kept)
        FROM retention r JOIN jobs j ON j.tenant_id = r.tenant_id, LATERAL (
          SELECT 'input' AS class, i ->> 'object_key' AS object_key, decode(i ->> 'sha256', 'hex') AS sha256, (i ->> 'bytes')::bigint AS bytes, r.inputs AS kept
          FROM job_requests q, jsonb_array_elements(q.generation -> 'inputs') i WHERE q.job_id = j.id AND NOT i ? 'upload'
          UNION ALL
          SELECT 'original', object_key, sha256, bytes, r.originals FROM calls WHERE job_id = j.id AND object_key IS NOT NULL
          UNION ALL
          SELECT role, object_key, sha256, bytes, r.renditions FROM artifacts WHERE job_id = j.id AND role <> 'original'
          UNION ALL
          SELECT 'prompt', 'job_requests/' || job_id, NULL, octet_length(concat(generation ->> 'prompt', generation ->> 'art_direction')), r.prompts
          FROM job_requests WHERE job_id = j.id AND generation ? 'prompt') file
        WHERE r.tenant_id = $1 AND j.finished_at IS NOT NULL AND file.kept IS NOT NULL "#
                + $condition
                + " ON CONFLICT (object_key) DO UPDATE SET due_at = least(planned.due_at, excluded.due_at) WHERE planned.deleted_at IS NULL",
            $($arguments)*
        )
    };
}
use plan_deletions;

/// Plans the deletion of an upload that its tenant has deleted, or that has expired. Its file is
/// due from the moment at which the upload was deleted, which is now.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn plan_upload(connection: &mut PgConnection, id: UploadId) -> sqlx::Result<()> {
    sqlx::query!(
        "-- retention::plan_upload
        INSERT INTO deletions (tenant_id, upload_id, class, object_key, sha256, bytes, due_at)
        SELECT tenant_id, id, 'upload', object_key, sha256, bytes, deleted_at FROM uploads WHERE id = $1",
        id as UploadId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes up to `limit` files and prompts that are due and under no legal hold. For the time
/// `lease`, no other worker takes them. If `files` is `false`, takes only prompts, which need no
/// bucket.
///
/// A row that this version cannot read becomes an inner error, so that the other rows are deleted
/// all the same.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn take(
    executor: impl PgExecutor<'_>,
    limit: i64,
    lease: Duration,
    files: bool,
) -> sqlx::Result<Vec<sqlx::Result<Due>>> {
    let rows = sqlx::query!(
        "-- retention::take
        UPDATE deletions SET tried_at = clock_timestamp() WHERE id IN (
          SELECT id FROM deletions d
          WHERE deleted_at IS NULL AND due_at <= clock_timestamp() AND ($3 OR class = 'prompt')
            AND (tried_at IS NULL OR tried_at < clock_timestamp() - make_interval(secs => $2))
            AND NOT EXISTS (SELECT FROM holds h WHERE h.job_id = d.job_id AND lifted_at IS NULL AND until > clock_timestamp())
          ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
        RETURNING id, tenant_id, class, object_key",
        limit,
        lease.as_secs_f64(),
        files,
    )
    .fetch_all(executor)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            Ok(Due {
                id: row.id,
                tenant: TenantId(row.tenant_id),
                class: RowId::new("deletions", row.id).parse("class", &row.class)?,
                object_key: row.object_key,
            })
        })
        .collect())
}

/// Hides a file if it is an artifact: from now on the API gives no link to it. This is the first
/// step of its deletion, so that no client gets a link to an object that is gone. A file of another
/// kind is not changed.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn hide(connection: &mut PgConnection, due: &Due) -> sqlx::Result<()> {
    sqlx::query!(
        "-- retention::hide
        UPDATE artifacts SET deleted_at = clock_timestamp() WHERE object_key = $1 AND deleted_at IS NULL",
        due.object_key
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes the prompt that is due, and also the providers' messages about the job's calls, because
/// they may quote the prompt. The other settings of the request stay.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn erase(connection: &mut PgConnection, due: &Due) -> sqlx::Result<()> {
    sqlx::query!(
        "-- retention::erase
        WITH due AS (SELECT job_id FROM deletions WHERE id = $1 AND class = 'prompt'),
             said AS (UPDATE calls SET detail = NULL FROM due WHERE calls.job_id = due.job_id AND detail IS NOT NULL)
        UPDATE job_requests SET generation = generation - '{prompt,art_direction}'::text[] FROM due WHERE job_requests.job_id = due.job_id",
        due.id
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Turns a planned deletion into a receipt. Must run only after the bucket has confirmed that the
/// file is gone, or in the transaction that erases the prompt. A second call changes nothing.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn receipt(executor: impl PgExecutor<'_>, due: &Due) -> sqlx::Result<()> {
    sqlx::query!(
        "-- retention::receipt
        UPDATE deletions SET deleted_at = clock_timestamp() WHERE id = $1 AND deleted_at IS NULL",
        due.id
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Counts the files and prompts that are due and not deleted, without those under a legal hold, and
/// the uploads that have expired. Also returns for how many seconds the one that was due first has
/// been due; 0 if there is none.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn overdue(executor: impl PgExecutor<'_>) -> sqlx::Result<(i64, f64)> {
    let row = sqlx::query!(
        r#"-- retention::overdue
        SELECT count(*) AS "files!", coalesce(extract(epoch FROM clock_timestamp() - min(due_at)), 0)::float8 AS "seconds!" FROM (
          SELECT due_at FROM deletions d WHERE deleted_at IS NULL AND due_at <= clock_timestamp()
            AND NOT EXISTS (SELECT FROM holds h WHERE h.job_id = d.job_id AND lifted_at IS NULL AND until > clock_timestamp())
          UNION ALL
          SELECT u.last_used_at + make_interval(secs => r.uploads) FROM uploads u JOIN retention r USING (tenant_id)
          WHERE u.deleted_at IS NULL AND u.last_used_at <= now() - make_interval(secs => r.uploads)) due"#
    )
    .fetch_one(executor)
    .await?;
    Ok((row.files, row.seconds))
}

/// Lists up to `limit` receipts of a tenant, by the number of the deletion, the highest first: the
/// deletion that was planned last comes first. With `job`, lists only receipts of this job. With
/// `before`, lists only receipts with a lower number than this.
///
/// # Errors
/// Returns an error if a row has a value that this version does not know, or if Postgres fails.
pub async fn receipts(
    connection: &mut PgConnection,
    tenant: TenantId,
    job: Option<JobId>,
    before: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<DeletionReceipt>> {
    let rows = sqlx::query!(
        r#"-- retention::receipts
        SELECT id, job_id, upload_id, class, sha256, bytes, due_at, deleted_at AS "deleted_at!" FROM deletions
        WHERE tenant_id = $1 AND deleted_at IS NOT NULL AND ($2::uuid IS NULL OR job_id = $2) AND ($3::bigint IS NULL OR id < $3)
        ORDER BY id DESC LIMIT $4"#,
        tenant as TenantId,
        job as Option<JobId>,
        before,
        limit,
    )
    .fetch_all(connection)
    .await?;
    let receipts = rows.into_iter().map(|row| {
        let row_id = RowId::new("deletions", row.id);
        Ok(DeletionReceipt {
            id: row.id,
            job: row.job_id.map(JobId),
            upload: row.upload_id.map(UploadId),
            class: row_id.parse("class", &row.class)?,
            sha256: (row.sha256)
                .map(|sha256| row_id.convert("sha256", sha256))
                .transpose()?,
            bytes: row.bytes,
            due_at: row.due_at,
            deleted_at: row.deleted_at,
        })
    });
    receipts.collect()
}

/// Adds a legal hold on a job's files, and returns its number. Returns `None` if the tenant has no
/// such job.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn add_legal_hold(
    connection: &mut PgConnection,
    tenant: TenantId,
    job: JobId,
    purpose: Purpose,
    reason: &str,
    until: OffsetDateTime,
) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        "-- retention::hold
        INSERT INTO holds (tenant_id, job_id, purpose, reason, until)
        SELECT $1, id, $3, $4, $5 FROM jobs WHERE id = $2 AND tenant_id = $1 RETURNING id",
        tenant as TenantId,
        job as JobId,
        purpose.as_str(),
        reason,
        until,
    )
    .fetch_optional(connection)
    .await
}

/// Removes the legal hold with this number, and returns its job. Returns `None` if the tenant of the
/// transaction has no such legal hold, or if it was removed before. The row stays.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn remove_legal_hold(
    connection: &mut PgConnection,
    legal_hold: i64,
) -> sqlx::Result<Option<JobId>> {
    sqlx::query_scalar!(
        r#"-- retention::lift
        UPDATE holds SET lifted_at = clock_timestamp() WHERE id = $1 AND lifted_at IS NULL RETURNING job_id AS "job: JobId""#,
        legal_hold
    )
    .fetch_optional(connection)
    .await
}

//! SQL of uploads.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::row::RowId;
use crate::file_columns::{FileColumns, width_and_height};
use domain::id::{JobId, TenantId, UploadId};
use domain::upload::Upload;

/// Inserts an upload, and returns the time of its creation. Returns `None` if an upload with this
/// id exists.
///
/// # Errors
/// Returns an error if a size does not fit its column, or if Postgres fails.
pub async fn insert(
    connection: &mut PgConnection,
    tenant: TenantId,
    upload: &Upload,
) -> sqlx::Result<Option<OffsetDateTime>> {
    let row_id = RowId::new("uploads", upload.id);
    let file = &upload.file;
    let (width, height) = width_and_height(&row_id, file)?;
    sqlx::query_scalar!(
        "-- upload::insert
        INSERT INTO uploads (id, tenant_id, name, object_key, sha256, bytes, media_type, width, height)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO NOTHING RETURNING created_at",
        upload.id as UploadId,
        tenant as TenantId,
        upload.name,
        file.object_key,
        &file.sha256[..],
        file.bytes,
        file.media_type.as_str(),
        width,
        height,
    )
    .fetch_optional(connection)
    .await
}

/// Reads the uploads with these ids, in no particular order. Leaves out uploads that do not exist
/// or are deleted.
///
/// # Errors
/// Returns an error if a row has a value that this version does not know, or if Postgres fails.
pub async fn find_existing(
    connection: &mut PgConnection,
    ids: &[UploadId],
) -> sqlx::Result<Vec<Upload>> {
    let rows = sqlx::query_as!(
        Row,
        "-- upload::some
        SELECT id, name, object_key, sha256, bytes, media_type, width, height, created_at FROM uploads WHERE id = ANY($1) AND deleted_at IS NULL",
        ids as &[UploadId]
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Row::into_upload).collect()
}

/// Lists up to `limit` uploads that are not deleted, by id, the highest first. With `before`, lists
/// only uploads with a lower id than this. An id contains the time at which it was made.
///
/// # Errors
/// Returns an error if a row has a value that this version does not know, or if Postgres fails.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    before: Option<UploadId>,
    limit: i64,
) -> sqlx::Result<Vec<Upload>> {
    let rows = sqlx::query_as!(
        Row,
        "-- upload::list
        SELECT id, name, object_key, sha256, bytes, media_type, width, height, created_at FROM uploads
        WHERE tenant_id = $1 AND deleted_at IS NULL AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        tenant as TenantId,
        before as Option<UploadId>,
        limit
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Row::into_upload).collect()
}

/// Whether an upload with this id existed and was deleted.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn is_gone(connection: &mut PgConnection, id: UploadId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- upload::is_gone
        SELECT EXISTS (SELECT FROM uploads WHERE id = $1 AND deleted_at IS NOT NULL) AS "gone!""#,
        id as UploadId
    )
    .fetch_one(connection)
    .await
}

/// Marks an upload as deleted, so that no new job may use it. Returns `false` if there is no such
/// upload, or if it is deleted already.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn hide(connection: &mut PgConnection, id: UploadId) -> sqlx::Result<bool> {
    let hidden = sqlx::query_scalar!(
        "-- upload::hide
        UPDATE uploads SET deleted_at = clock_timestamp() WHERE id = $1 AND deleted_at IS NULL RETURNING id",
        id as UploadId
    )
    .fetch_optional(connection)
    .await?;
    Ok(hidden.is_some())
}

/// Finds up to `limit` uploads of all tenants that have expired by their tenant's retention, the
/// longest unused first. Open jobs may still use some of them. The SQL compares with `now()` and
/// not `clock_timestamp()`, because only then Postgres uses the index.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn due(pool: &PgPool, limit: i64) -> sqlx::Result<Vec<(TenantId, UploadId)>> {
    let rows = sqlx::query!(
        "-- upload::due
        SELECT u.tenant_id, u.id FROM uploads u JOIN retention r USING (tenant_id)
        WHERE u.deleted_at IS NULL AND u.last_used_at <= now() - make_interval(secs => r.uploads)
        ORDER BY u.last_used_at LIMIT $1",
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (TenantId(row.tenant_id), UploadId(row.id)))
        .collect())
}

/// Finds up to `limit` uploads of tenants that never paid, which no job has used for `max_age`, the
/// longest unused first. A tenant counts as having paid if credits of any of its grants were
/// consumed. `storage_totals` has one row for each tenant, so Postgres looks up the grants once for
/// each tenant and not once for each upload. The SQL compares with `now()` and not
/// `clock_timestamp()`, because only then Postgres uses the index.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn unpaid(
    pool: &PgPool,
    max_age: Duration,
    limit: i64,
) -> sqlx::Result<Vec<(TenantId, UploadId)>> {
    let rows = sqlx::query!(
        "-- upload::unpaid
        SELECT u.tenant_id, u.id FROM storage_totals t JOIN uploads u USING (tenant_id)
        WHERE u.deleted_at IS NULL AND u.last_used_at <= now() - make_interval(secs => $1)
          AND NOT EXISTS (SELECT FROM grants g WHERE g.tenant_id = t.tenant_id AND g.consumed > 0)
        ORDER BY u.last_used_at LIMIT $2",
        max_age.as_secs_f64(),
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (TenantId(row.tenant_id), UploadId(row.id)))
        .collect())
}

/// Locks an upload that has expired, so that no job can begin to use it until the transaction ends.
/// It has expired by its tenant's retention, or by `max_unpaid_age` if none of its tenant's credits
/// was ever consumed. Returns `false` if the upload has not expired or is deleted.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn lock_due(
    connection: &mut PgConnection,
    id: UploadId,
    max_unpaid_age: Option<Duration>,
) -> sqlx::Result<bool> {
    let locked = sqlx::query_scalar!(
        "-- upload::lock_due
        SELECT u.id FROM uploads u LEFT JOIN retention r USING (tenant_id)
        WHERE u.id = $1 AND u.deleted_at IS NULL AND (u.last_used_at <= clock_timestamp() - make_interval(secs => r.uploads)
          OR (u.last_used_at <= clock_timestamp() - make_interval(secs => $2)
              AND NOT EXISTS (SELECT FROM grants g WHERE g.tenant_id = u.tenant_id AND g.consumed > 0)))
        FOR NO KEY UPDATE OF u",
        id as UploadId,
        max_unpaid_age.map(|age| age.as_secs_f64()),
    )
    .fetch_optional(connection)
    .await?;
    Ok(locked.is_some())
}

/// Sets the time of last use to now, so that the upload is kept for its whole time again.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn touch(connection: &mut PgConnection, id: UploadId) -> sqlx::Result<()> {
    sqlx::query!(
        "-- upload::touch
        UPDATE uploads SET last_used_at = clock_timestamp() WHERE id = $1",
        id as UploadId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Sets the time of last use to now for each upload that this job uses. Must run in the transaction
/// that ends the job.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn touch_all_of(connection: &mut PgConnection, job: JobId) -> sqlx::Result<()> {
    sqlx::query!(
        "-- upload::touch_all_of
        UPDATE uploads u SET last_used_at = clock_timestamp()
        FROM job_requests r, jsonb_array_elements(r.generation -> 'inputs') i
        WHERE r.job_id = $1 AND i ? 'upload' AND u.object_key = i ->> 'object_key'",
        job as JobId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Counts the open jobs of the tenant that use an upload.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn open_jobs(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: UploadId,
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"-- upload::open_jobs
        SELECT count(*) AS "jobs!" FROM jobs j JOIN job_requests r ON r.job_id = j.id
        WHERE j.tenant_id = $1 AND j.state IN ('queued', 'running') AND r.generation @> jsonb_build_object('inputs', jsonb_build_array(jsonb_build_object('upload', $2::text)))"#,
        tenant as TenantId,
        id.to_string()
    )
    .fetch_one(connection)
    .await
}

struct Row {
    id: Uuid,
    name: Option<String>,
    object_key: String,
    sha256: Vec<u8>,
    bytes: i64,
    media_type: String,
    width: i32,
    height: i32,
    created_at: OffsetDateTime,
}

impl Row {
    fn into_upload(self) -> sqlx::Result<Upload> {
        let id = UploadId(self.id);
        let row_id = RowId::new("uploads", id);
        Ok(Upload {
            id,
            name: self.name,
            file: FileColumns {
                object_key: self.object_key,
                sha256: self.sha256,
                bytes: self.bytes,
                media_type: self.media_type,
                width: self.width,
                height: self.height,
            }
            .file(&row_id)?,
            created_at: Some(self.created_at),
        })
    }
}

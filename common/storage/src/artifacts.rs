//! SQL of artifacts.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::row::RowId;
use crate::file_columns::{FileColumns, width_and_height};
use domain::artifact::Artifact;
use domain::id::{ArtifactId, JobId, TenantId};

/// Writes rows for new artifacts of a tenant, in one statement. Their files must be in the bucket
/// already. Each artifact comes with the number of the attempt that made it (fence).
///
/// # Errors
/// Returns an error if a value does not fit its column, or if Postgres fails.
pub async fn insert<'a>(
    connection: &mut PgConnection,
    tenant: TenantId,
    artifacts: impl Iterator<Item = (i32, &'a Artifact)>,
) -> sqlx::Result<()> {
    let mut columns = Columns::default();
    for (fence, artifact) in artifacts {
        columns.add(fence, artifact)?;
    }
    sqlx::query!(
        "-- artifact::insert
        INSERT INTO artifacts (tenant_id, job_id, fence, id, output_idx, role, object_key, sha256, bytes, media_type, width, height, synthetic, c2pa_sha256)
        SELECT $1, file.job_id, file.fence, file.id, file.output_idx, file.role, file.object_key, file.sha256, file.bytes, file.media_type, file.width, file.height, file.synthetic, file.c2pa_sha256
        FROM unnest($2::uuid[], $3::integer[], $4::uuid[], $5::integer[], $6::text[], $7::text[], $8::bytea[], $9::bigint[], $10::text[], $11::integer[], $12::integer[], $13::boolean[], $14::bytea[])
          AS file(job_id, fence, id, output_idx, role, object_key, sha256, bytes, media_type, width, height, synthetic, c2pa_sha256)",
        tenant as TenantId,
        &columns.jobs as &[JobId],
        &columns.fences,
        &columns.ids as &[ArtifactId],
        &columns.output_idxs,
        &columns.kinds,
        &columns.object_keys,
        &columns.sha256s,
        &columns.bytes,
        &columns.media_types,
        &columns.widths,
        &columns.heights,
        &columns.synthetic,
        &columns.c2pa_sha256s as &[Option<Vec<u8>>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The columns of new artifacts, with one entry for each artifact.
#[derive(Default)]
struct Columns {
    jobs: Vec<JobId>,
    fences: Vec<i32>,
    ids: Vec<ArtifactId>,
    output_idxs: Vec<i32>,
    kinds: Vec<String>,
    object_keys: Vec<String>,
    sha256s: Vec<Vec<u8>>,
    bytes: Vec<i64>,
    media_types: Vec<String>,
    widths: Vec<i32>,
    heights: Vec<i32>,
    synthetic: Vec<bool>,
    c2pa_sha256s: Vec<Option<Vec<u8>>>,
}

impl Columns {
    fn add(&mut self, fence: i32, artifact: &Artifact) -> sqlx::Result<()> {
        let file = &artifact.file;
        let (width, height) = width_and_height(&RowId::new("artifacts", artifact.id), file)?;
        self.jobs.push(artifact.job);
        self.fences.push(fence);
        self.ids.push(artifact.id);
        self.output_idxs.push(artifact.output_idx);
        self.kinds.push(artifact.kind.as_str().to_owned());
        self.object_keys.push(file.object_key.clone());
        self.sha256s.push(file.sha256.to_vec());
        self.bytes.push(file.bytes);
        self.media_types.push(file.media_type.as_str().to_owned());
        self.widths.push(width);
        self.heights.push(height);
        self.synthetic.push(artifact.synthetic);
        self.c2pa_sha256s
            .push(artifact.c2pa_sha256.map(|sha256| sha256.to_vec()));
        Ok(())
    }
}

/// Reads the artifacts of these jobs that are not deleted, ordered by job, output and kind
/// (rendition, thumbnail, original).
///
/// # Errors
/// Returns an error if a row has a value that this version does not know, or if Postgres fails.
pub async fn of_jobs(connection: &mut PgConnection, jobs: &[JobId]) -> sqlx::Result<Vec<Artifact>> {
    let rows = sqlx::query_as!(
        Row,
        "-- artifact::of_jobs
        SELECT id, job_id, output_idx, role, object_key, sha256, bytes, media_type, width, height, synthetic, c2pa_sha256, created_at
        FROM artifacts WHERE job_id = ANY($1) AND deleted_at IS NULL ORDER BY job_id, output_idx, array_position(ARRAY['rendition', 'thumbnail', 'original'], role)",
        jobs as &[JobId]
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Row::artifact).collect()
}

/// Reads one artifact. Returns `None` if it does not exist or is deleted.
///
/// # Errors
/// Returns an error if the row has a value that this version does not know, or if Postgres fails.
pub async fn get(connection: &mut PgConnection, id: ArtifactId) -> sqlx::Result<Option<Artifact>> {
    let row = sqlx::query_as!(
        Row,
        "-- artifact::get
        SELECT id, job_id, output_idx, role, object_key, sha256, bytes, media_type, width, height, synthetic, c2pa_sha256, created_at
        FROM artifacts WHERE id = $1 AND deleted_at IS NULL",
        id as ArtifactId
    )
    .fetch_optional(connection)
    .await?;
    row.map(Row::artifact).transpose()
}

/// Whether this artifact existed and is deleted. In that case the API answers 410, and otherwise
/// 404.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn is_gone(connection: &mut PgConnection, id: ArtifactId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- artifact::is_gone
        SELECT EXISTS (SELECT FROM artifacts WHERE id = $1 AND deleted_at IS NOT NULL) AS "gone!""#,
        id as ArtifactId
    )
    .fetch_one(connection)
    .await
}

struct Row {
    id: Uuid,
    job_id: Uuid,
    output_idx: i32,
    role: String,
    object_key: String,
    sha256: Vec<u8>,
    bytes: i64,
    media_type: String,
    width: i32,
    height: i32,
    synthetic: bool,
    c2pa_sha256: Option<Vec<u8>>,
    created_at: OffsetDateTime,
}

impl Row {
    fn artifact(self) -> sqlx::Result<Artifact> {
        let id = ArtifactId(self.id);
        let row_id = RowId::new("artifacts", id);
        Ok(Artifact {
            id,
            job: JobId(self.job_id),
            output_idx: self.output_idx,
            kind: row_id.parse("role", &self.role)?,
            file: FileColumns {
                object_key: self.object_key,
                sha256: self.sha256,
                bytes: self.bytes,
                media_type: self.media_type,
                width: self.width,
                height: self.height,
            }
            .file(&row_id)?,
            synthetic: self.synthetic,
            c2pa_sha256: self
                .c2pa_sha256
                .map(|sha256| row_id.convert("c2pa_sha256", sha256))
                .transpose()?,
            created_at: Some(self.created_at),
        })
    }
}

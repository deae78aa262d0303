//! SQL of the rows that name files which must be in the bucket.

use sqlx::PgPool;
use uuid::Uuid;

/// How many rows are read at once.
const PAGE_ROWS: i64 = 500;

/// A kind of rows that name files which must be in the bucket.
#[derive(Clone, Copy)]
pub enum Table {
    /// Artifacts that are not deleted.
    Artifacts,
    /// Calls of open jobs. The next attempt takes over their originals.
    OpenCalls,
    /// Uploads that are not deleted.
    Uploads,
}

/// A row that names a file.
pub struct Row {
    /// The id of the row, without a prefix. Pages are sorted by it.
    pub id: Uuid,
    /// The key of the file in the bucket.
    pub object_key: String,
    /// SHA-256 of the file, 32 bytes.
    pub sha256: Vec<u8>,
    /// Length of the file, in bytes.
    pub bytes: i64,
}

impl Table {
    /// What such a row is called in findings.
    pub fn word(self) -> &'static str {
        match self {
            Self::Artifacts => "artifact",
            Self::OpenCalls => "call",
            Self::Uploads => "upload",
        }
    }

    /// Reads the first 500 rows with an id above `after`, sorted by id. Empty at the end.
    ///
    /// # Errors
    /// Returns an error if Postgres fails.
    pub async fn page(self, pool: &PgPool, after: Uuid) -> sqlx::Result<Vec<Row>> {
        match self {
            Self::Artifacts => {
                sqlx::query_as!(
                    Row,
                    "-- verify::artifacts
                    SELECT id, object_key, sha256, bytes FROM artifacts WHERE deleted_at IS NULL AND id > $1 ORDER BY id LIMIT $2",
                    after,
                    PAGE_ROWS
                )
                .fetch_all(pool)
                .await
            }
            Self::OpenCalls => {
                sqlx::query_as!(
                    Row,
                    r#"-- verify::originals
                    SELECT c.id, object_key AS "object_key!", sha256 AS "sha256!", bytes AS "bytes!" FROM jobs j JOIN calls c ON c.job_id = j.id
                    WHERE j.state IN ('queued', 'running') AND c.object_key IS NOT NULL AND c.id > $1 ORDER BY c.id LIMIT $2"#,
                    after,
                    PAGE_ROWS
                )
                .fetch_all(pool)
                .await
            }
            Self::Uploads => {
                sqlx::query_as!(
                    Row,
                    "-- verify::uploads
                    SELECT id, object_key, sha256, bytes FROM uploads WHERE deleted_at IS NULL AND id > $1 ORDER BY id LIMIT $2",
                    after,
                    PAGE_ROWS
                )
                .fetch_all(pool)
                .await
            }
        }
    }

    /// Whether the row still names its file. The file may have been deleted, or its job may have
    /// ended, meanwhile.
    ///
    /// # Errors
    /// Returns an error if Postgres fails.
    pub async fn still_names(self, pool: &PgPool, row: &Row) -> sqlx::Result<bool> {
        match self {
            Self::Artifacts => {
                sqlx::query_scalar!(
                    r#"-- verify::artifact_stands
                    SELECT EXISTS (SELECT FROM artifacts WHERE id = $1 AND deleted_at IS NULL) AS "stands!""#,
                    row.id
                )
                .fetch_one(pool)
                .await
            }
            Self::OpenCalls => {
                sqlx::query_scalar!(
                    r#"-- verify::original_stands
                    SELECT EXISTS (SELECT FROM calls c JOIN jobs j ON j.id = c.job_id WHERE c.id = $1 AND c.object_key IS NOT NULL AND j.finished_at IS NULL) AS "stands!""#,
                    row.id
                )
                .fetch_one(pool)
                .await
            }
            Self::Uploads => {
                sqlx::query_scalar!(
                    r#"-- verify::upload_stands
                    SELECT EXISTS (SELECT FROM uploads WHERE id = $1 AND deleted_at IS NULL) AS "stands!""#,
                    row.id
                )
                .fetch_one(pool)
                .await
            }
        }
    }
}

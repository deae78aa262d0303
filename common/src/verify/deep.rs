//! `platen verify --deep`: compares the rows with the bucket.
//!
//! It checks that the bucket belongs to this database, that each object that rows name is there
//! with its bytes (I7), that there is no object without a row (I19), and that deleted files are
//! gone (I17).
//!
//! It may take hours, so it has no snapshot: rows are read page by page, and each apparent
//! violation is checked a second time before it is reported. Eight objects are read at a time, and
//! none is ever whole in memory.

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use sqlx::PgPool;
use uuid::Uuid;

use super::Finding;
use crate::bucket::{Bucket, BucketError, Listed, Stored};
use crate::orphans::{Search, SearchError};
use crate::ownership::{self, Ownership};

/// Rows read at once.
const PAGE: i64 = 500;
/// Objects read at once.
const CONCURRENT_READS: usize = 8;
/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// A report of a check that is running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A violation.
    Finding(Finding),
    /// How far the check is.
    Progress(Progress),
}

/// How far a check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files that were read.
    pub read: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Objects of the bucket that were listed.
    pub listed: u64,
}

/// Reads every file that rows name, then lists the whole bucket and looks for objects that should
/// not be there. Objects without a row count only if they are older than `grace`. Calls `report`
/// meanwhile.
///
/// # Errors
/// The bucket belongs to another database; or the bucket or the database failed, and the check
/// broke off.
pub async fn check(
    pool: &PgPool,
    bucket: &Bucket,
    grace: Duration,
    report: impl FnMut(Report),
) -> Result<Progress, SearchError> {
    // Objects in another database's bucket would all be findings, and all wrong ones.
    ownership::must_be_usable(pool, bucket).await?;
    let ownership = ownership::examine(pool, bucket).await?;
    let mut check = Check {
        pool,
        bucket,
        report,
        progress: Progress::default(),
        reported_at: Instant::now(),
    };
    if let (Ownership::NotAdopted, Some(problem)) = (ownership, ownership.problem()) {
        check.find("I17", problem.to_owned());
    }
    for table in [Table::Artifacts, Table::OpenCalls, Table::Uploads] {
        check.files(table).await?;
    }
    check.orphans(grace).await?;
    Ok(check.progress)
}

struct Check<'a, F> {
    pool: &'a PgPool,
    bucket: &'a Bucket,
    report: F,
    progress: Progress,
    reported_at: Instant,
}

/// Rows that name files which must be there.
#[derive(Clone, Copy)]
enum Table {
    /// Artifacts that are not deleted.
    Artifacts,
    /// Calls of open jobs: the next attempt takes over their originals.
    OpenCalls,
    /// Uploads that are not deleted.
    Uploads,
}

/// A row that names a file.
struct Row {
    id: Uuid,
    object_key: String,
    sha256: Vec<u8>,
    bytes: i64,
}

impl<F: FnMut(Report)> Check<'_, F> {
    /// Reads every file that rows of this kind name.
    async fn files(&mut self, table: Table) -> sqlx::Result<()> {
        let mut after = Uuid::nil();
        loop {
            let page = table.page(self.pool, after).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.id;
            let bucket = self.bucket;
            let mut read = stream::iter(page)
                .map(async |row| {
                    let stored = bucket.measure(&row.object_key).await;
                    (row, stored)
                })
                .buffer_unordered(CONCURRENT_READS);
            while let Some((row, stored)) = read.next().await {
                self.progress.read += 1;
                if let Ok(Some(stored)) = &stored {
                    self.progress.bytes += stored.bytes.unsigned_abs();
                }
                if problem(&row, &stored).is_some()
                    && table.still_names(self.pool, &row).await?
                    // Read again: one failure of the store in hours is not a violation.
                    && let Some(problem) = problem(&row, &bucket.measure(&row.object_key).await)
                {
                    let (what, Row { id, object_key, .. }) = (table.word(), row);
                    self.find("I7", format!("{what} {id}: {object_key} {problem}"));
                }
            }
            self.report_progress();
        }
    }

    /// Lists the bucket, and reports objects that should not be there.
    async fn orphans(&mut self, grace: Duration) -> Result<(), SearchError> {
        let mut search = Search::begin(self.pool, self.bucket, grace).await?;
        while let Some(batch) = search.next().await? {
            self.progress.listed += batch.seen as u64;
            for object in batch.unnamed {
                self.find(
                    "I19",
                    object_text(
                        &object,
                        "no row names it, and the sweeper has not removed it",
                    ),
                );
            }
            for object in batch.receipted {
                let why = "a receipt says that it was deleted; the sweeper deletes it again";
                self.find("I17", object_text(&object, why));
            }
            for (object, due) in batch.overdue {
                let why = format!("it was to be deleted at {due}, and is still there");
                self.find("I17", object_text(&object, &why));
            }
            for object in batch.irregular {
                let why = format!(
                    "it is {}, which is neither followed nor removed: a bucket may contain only plain files",
                    object.kind.word()
                );
                self.find("I19", object_text(&object, &why));
            }
            for object in batch.strange {
                let why = "its key belongs to no tenant of this database, so the sweeper does not remove it";
                self.find("I19", object_text(&object, why));
            }
            self.report_progress();
        }
        Ok(())
    }

    fn find(&mut self, invariant: &'static str, says: String) {
        (self.report)(Report::Finding(Finding { invariant, says }));
    }

    fn report_progress(&mut self) {
        if self.reported_at.elapsed() >= PROGRESS_INTERVAL {
            self.reported_at = Instant::now();
            (self.report)(Report::Progress(self.progress));
        }
    }
}

/// What is wrong with a file; `None` where nothing is.
fn problem(row: &Row, stored: &Result<Option<Stored>, BucketError>) -> Option<String> {
    match stored {
        Err(error) => Some(format!("cannot be read: {error}")),
        Ok(None) => Some("is not in the bucket".to_owned()),
        Ok(Some(stored)) if stored.bytes != row.bytes => Some(format!(
            "has {} bytes instead of {}",
            stored.bytes, row.bytes
        )),
        Ok(Some(stored)) if stored.sha256[..] != row.sha256 => Some(format!(
            "has other bytes than were stored: its SHA-256 is {}, not {}",
            hex::encode(stored.sha256),
            hex::encode(&row.sha256)
        )),
        Ok(Some(_)) => None,
    }
}

/// A finding about an object, in words.
fn object_text(object: &Listed, why: &str) -> String {
    let Listed {
        key,
        bytes,
        modified,
        ..
    } = object;
    format!("{key} ({bytes} bytes, of {modified}): {why}")
}

impl Table {
    fn word(self) -> &'static str {
        match self {
            Self::Artifacts => "artifact",
            Self::OpenCalls => "call",
            Self::Uploads => "upload",
        }
    }

    /// The next rows, by id.
    async fn page(self, pool: &PgPool, after: Uuid) -> sqlx::Result<Vec<Row>> {
        match self {
            Self::Artifacts => {
                sqlx::query_as!(
                    Row,
                    "-- verify::artifacts
                    SELECT id, object_key, sha256, bytes FROM artifacts WHERE deleted_at IS NULL AND id > $1 ORDER BY id LIMIT $2",
                    after,
                    PAGE
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
                    PAGE
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
                    PAGE
                )
                .fetch_all(pool)
                .await
            }
        }
    }

    /// Whether the row still names its file: meanwhile it may have been deleted, or its job may
    /// have ended.
    async fn still_names(self, pool: &PgPool, row: &Row) -> sqlx::Result<bool> {
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

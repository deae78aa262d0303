//! `platen verify --deep`: compares the rows with the bucket.
//!
//! This check covers four things: the bucket belongs to this database; each object that a row names
//! is there with its bytes (invariant I7); there is no object without a row (I19); and deleted
//! files are gone (I17).
//!
//! The check may take hours, so it does not use one snapshot. It reads the rows page by page, and
//! looks at each file or object with an apparent violation a second time before it reports it. It
//! reads eight objects at a time, and never holds a whole object in memory.

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use sqlx::PgPool;
use uuid::Uuid;

use crate::files::orphans::{Search, SearchError};
use crate::files::ownership;
use bucket::{Bucket, BucketError, ListedObject, StoredObject};
use domain::ownership::Ownership;
use storage::verify::Finding;
use storage::verify::files::{Row, Table};

/// How many objects are read at once.
const CONCURRENT_READS: usize = 8;
/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// A report of a running check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A violation.
    Finding(Finding),
    /// How far the check has come.
    Progress(Progress),
}

/// How far a check has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files that were read.
    pub read: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Objects of the bucket that were listed, without the marker and the anchors.
    pub listed: u64,
}

/// Reads every file that rows name, then lists the whole bucket and looks for objects that should
/// not be there. Objects without a row count only if they are older than `grace`. Calls `report`
/// meanwhile.
///
/// # Errors
/// Returns an error if the bucket belongs to another database, or if the bucket or Postgres fails.
/// The check ends there.
pub async fn check(
    pool: &PgPool,
    bucket: &Bucket,
    grace: Duration,
    report: impl FnMut(Report),
) -> Result<Progress, SearchError> {
    // In another database's bucket, every object would be reported, and every report would be
    // wrong.
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
        check.report_finding("I17", problem.to_owned());
    }
    for table in [Table::Artifacts, Table::OpenCalls, Table::Uploads] {
        check.check_files(table).await?;
    }
    check.check_orphans(grace).await?;
    Ok(check.progress)
}

/// A running check.
struct Check<'a, F> {
    pool: &'a PgPool,
    bucket: &'a Bucket,
    report: F,
    progress: Progress,
    /// When progress was last reported.
    reported_at: Instant,
}

impl<F: FnMut(Report)> Check<'_, F> {
    /// Reads every file that rows of this kind name.
    async fn check_files(&mut self, table: Table) -> sqlx::Result<()> {
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
                    // The object is read again, because one failure of the store in hours is not a
                    // violation.
                    && let Some(problem) = problem(&row, &bucket.measure(&row.object_key).await)
                {
                    let (what, Row { id, object_key, .. }) = (table.word(), row);
                    self.report_finding("I7", format!("{what} {id}: {object_key} {problem}"));
                }
            }
            self.report_progress();
        }
    }

    /// Lists the bucket, and reports objects that should not be there.
    async fn check_orphans(&mut self, grace: Duration) -> Result<(), SearchError> {
        let mut search = Search::begin(self.pool, self.bucket, grace).await?;
        while let Some(batch) = search.next().await? {
            self.progress.listed += batch.seen as u64;
            for object in batch.unnamed {
                let why = "no row names it, and the sweeper has not removed it";
                self.report_object("I19", &object, why).await;
            }
            for object in batch.receipted {
                let why = "a receipt says that it was deleted; the sweeper deletes it again";
                self.report_object("I17", &object, why).await;
            }
            for (object, due) in batch.overdue {
                let why = format!("it was to be deleted at {due}, and is still there");
                self.report_object("I17", &object, &why).await;
            }
            for object in batch.irregular {
                let why = format!(
                    "it is {}, which is neither followed nor removed: a bucket may contain only plain files",
                    object.kind.word()
                );
                self.report_object("I19", &object, &why).await;
            }
            for object in batch.strange {
                let why = "its key belongs to no tenant of this database, so the sweeper does not remove it";
                self.report_object("I19", &object, why).await;
            }
            self.report_progress();
        }
        Ok(())
    }

    /// Reports an object that should not be there, unless it was deleted since it was listed.
    async fn report_object(&mut self, invariant: &'static str, object: &ListedObject, why: &str) {
        if !matches!(self.bucket.measure(&object.key).await, Ok(None)) {
            self.report_finding(invariant, object_text(object, why));
        }
    }

    fn report_finding(&mut self, invariant: &'static str, text: String) {
        (self.report)(Report::Finding(Finding { invariant, text }));
    }

    /// Reports progress, unless that was done a short time ago.
    fn report_progress(&mut self) {
        if self.reported_at.elapsed() >= PROGRESS_INTERVAL {
            self.reported_at = Instant::now();
            (self.report)(Report::Progress(self.progress));
        }
    }
}

/// What is wrong with the file that `row` names, if `stored` was read from the bucket. `None` if
/// nothing is wrong.
fn problem(row: &Row, stored: &Result<Option<StoredObject>, BucketError>) -> Option<String> {
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
fn object_text(object: &ListedObject, why: &str) -> String {
    let ListedObject {
        key,
        bytes,
        modified,
        ..
    } = object;
    format!("{key} ({bytes} bytes, of {modified}): {why}")
}

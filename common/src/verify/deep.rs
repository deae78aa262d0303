//! What rows alone cannot tell: whether the bucket is this database's, whether each object that rows name is there and is the one
//! (I7), whether the bucket holds any that nobody names (I19), and whether what is to be gone is gone (I17).
//!
//! It may take hours, so there is no snapshot: rows are read page by page, and what seems broken is asked for once more
//! before it is told. A few objects are read at a time, none is ever whole in memory.

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use sqlx::PgPool;
use uuid::Uuid;

use crate::files::orphans::{Search, SearchError};
use crate::files::ownership;
use bucket::{Bucket, BucketError, Listed, Stored};
use domain::ownership::Ownership;
use storage::verify::Finding;
use storage::verify::files::{Row, Table};

/// Objects read at once.
const CONCURRENT_READS: usize = 8;
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// What a long check has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    Finding(Finding),
    Progress(Progress),
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files read, and how much that was.
    pub read: u64,
    pub bytes: u64,
    /// Objects of the bucket looked at.
    pub listed: u64,
}

/// Reads every file that rows name, then looks through the whole bucket for objects older than `grace` that none does.
pub async fn check(
    pool: &PgPool,
    bucket: &Bucket,
    grace: Duration,
    tell: impl FnMut(Report),
) -> Result<Progress, SearchError> {
    // What lies in another's bucket says nothing of this database.
    ownership::must_be_usable(pool, bucket).await?;
    let ownership = ownership::examine(pool, bucket).await?;
    let mut check = Check {
        pool,
        bucket,
        tell,
        progress: Progress::default(),
        told: Instant::now(),
    };
    if let (Ownership::NotAdopted, Some(problem)) = (ownership, ownership.problem()) {
        check.find("I17", problem.to_owned());
    }
    for of in [Table::Artifacts, Table::OpenCalls, Table::Uploads] {
        check.files(of).await?;
    }
    check.orphans(grace).await?;
    Ok(check.progress)
}

struct Check<'a, F> {
    pool: &'a PgPool,
    bucket: &'a Bucket,
    tell: F,
    progress: Progress,
    told: Instant,
}

impl<F: FnMut(Report)> Check<'_, F> {
    async fn files(&mut self, of: Table) -> sqlx::Result<()> {
        let mut after = Uuid::nil();
        loop {
            let page = of.page(self.pool, after).await?;
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
                if wrong(&row, &stored).is_some()
                    && of.still_stands(self.pool, &row).await?
                    // A store that coughs once in hours is no finding.
                    && let Some(wrong) = wrong(&row, &bucket.measure(&row.object_key).await)
                {
                    let (what, Row { id, object_key, .. }) = (of.word(), row);
                    self.find("I7", format!("{what} {id}: {object_key} {wrong}"));
                }
            }
            self.go_on();
        }
    }

    async fn orphans(&mut self, grace: Duration) -> Result<(), SearchError> {
        let mut search = Search::begin(self.pool, self.bucket, grace).await?;
        while let Some(batch) = search.next().await? {
            self.progress.listed += batch.seen as u64;
            for object in batch.unnamed {
                self.find(
                    "I19",
                    lies(
                        &object,
                        "no row names it, and the sweeper has not removed it",
                    ),
                );
            }
            for object in batch.receipted {
                let why = "a receipt says that it was deleted; the sweeper deletes it again";
                self.find("I17", lies(&object, why));
            }
            for (object, due) in batch.overdue {
                let why = format!("it was to be deleted at {due}, and is there");
                self.find("I17", lies(&object, &why));
            }
            for object in batch.irregular {
                let why = format!(
                    "it is {}, which is not followed and not removed: a bucket has plain files only",
                    object.kind.word()
                );
                self.find("I19", lies(&object, &why));
            }
            for object in batch.strange {
                self.find("I19", lies(&object, "it stands under no key of a tenant of this database, so the sweeper leaves it alone"));
            }
            self.go_on();
        }
        Ok(())
    }

    fn find(&mut self, invariant: &'static str, says: String) {
        (self.tell)(Report::Finding(Finding { invariant, says }));
    }

    fn go_on(&mut self) {
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            (self.tell)(Report::Progress(self.progress));
        }
    }
}

/// What is wrong with a file, if anything is.
fn wrong(row: &Row, stored: &Result<Option<Stored>, BucketError>) -> Option<String> {
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

fn lies(object: &Listed, why: &str) -> String {
    let Listed {
        key,
        bytes,
        modified,
        ..
    } = object;
    format!("{key} ({bytes} bytes, of {modified}): {why}")
}

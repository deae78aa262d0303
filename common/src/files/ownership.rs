//! Whether the bucket is this database's. A marker in the bucket carries an id that the database has recorded; where they
//! differ, a wrong `PLATEN_BUCKET` or a volume that is not mounted is the likely reason. Then nothing is deleted, no receipt
//! is written, and no job is started whose file would be lost.
//!
//! Only [`adopt`] writes the marker: `platen bucket adopt`, and `platen up` on a new database. A process that serves never does.
//! Why so: docs/decisions/0024.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use crate::files::orphans::SearchError;
use bucket::{Bucket, BucketError};
use domain::operator::Actor;
use domain::ownership::{Ownership, Unknown};
use storage::database;

/// How old an answer may be for whoever asks often.
const CACHE_TTL: Duration = Duration::from_secs(1);
/// How long an answer may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long Postgres may take to tell what it told before. After that its last answer counts: it changes by hand only.
const UNADOPTED_CACHE_TTL: Duration = Duration::from_secs(1);

/// Knows whose the bucket is: asks it and the database, at most once at a time.
#[derive(Clone)]
pub struct Owner(Arc<Shared>);

struct Shared {
    pool: PgPool,
    bucket: Bucket,
    seen: Mutex<Seen>,
}

type Answer = Result<Ownership, Unknown>;
/// What is recorded, and what that says of the bucket.
type ReadResult = Result<(Recorded, Ownership), Problem>;

/// The marker's id that the database has recorded; `None`: no bucket was adopted.
#[derive(Clone, Copy, Debug)]
struct Recorded(Option<Uuid>);

#[derive(Default)]
struct Seen {
    /// The last answer, and when it was asked for.
    last: Option<(Instant, Answer)>,
    /// A question that was not answered yet. It outlives whoever asked it.
    running: Option<(Instant, JoinHandle<ReadResult>)>,
    /// What the database has recorded, as last heard, where it was heard at all.
    recorded: Option<Recorded>,
    told: Option<Ownership>,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("Postgres: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the bucket: {0}")]
    Bucket(#[from] BucketError),
}

impl Owner {
    pub fn new(pool: PgPool, bucket: Bucket) -> Self {
        Self(Arc::new(Shared {
            pool,
            bucket,
            seen: Mutex::default(),
        }))
    }

    /// Whose it is, as of a second ago at most.
    pub async fn check(&self) -> Answer {
        let now = Instant::now();
        self.check_since(now.checked_sub(CACHE_TTL).unwrap_or(now))
            .await
    }

    /// Whose it is, asked at `since` or later. Whoever has changed something asks with a time after the change.
    #[expect(
        clippy::disallowed_methods,
        reason = "a question to a bucket that hangs must not hold the process's end up"
    )]
    pub async fn check_since(&self, since: Instant) -> Answer {
        let deadline = Instant::now() + CHECK_TIMEOUT;
        let mut seen = self.0.seen.lock().await;
        loop {
            if let Some((asked, answer)) = &seen.last
                && *asked >= since
            {
                return answer.clone();
            }
            let recorded = seen.recorded;
            let (asked, question) = seen.running.get_or_insert_with(|| {
                let owner = self.clone();
                let look = async move { owner.read(recorded).await };
                (Instant::now(), tokio::spawn(look))
            });
            let asked = *asked;
            let (at, answer) = match timeout_at(deadline, question).await {
                Ok(answered) => {
                    seen.running = None;
                    (asked, seen.note(answered))
                }
                // Whoever waits behind us need not wait as long again.
                Err(_) => {
                    seen.leave(self.0.bucket.is_folder());
                    let silent = format!("no answer within {} s", CHECK_TIMEOUT.as_secs());
                    (Instant::now(), Err(Unknown(silent)))
                }
            };
            seen.last = Some((at, answer));
        }
    }

    /// An error unless files may be written to it and read from it, as of a second ago at most.
    pub async fn usable(&self) -> Result<(), BucketError> {
        usable(self.check().await)
    }

    /// The same, asked at `since` or later.
    pub async fn usable_since(&self, since: Instant) -> Result<(), BucketError> {
        usable(self.check_since(since).await)
    }

    /// Whether files may be deleted from it, as of a second ago at most.
    pub async fn allows_deletion(&self) -> bool {
        matches!(self.check().await, Ok(Ownership::Ours))
    }

    /// For a process that starts: it must not begin on a bucket that is another's. A bucket that does not answer is waited for.
    ///
    /// # Errors
    ///
    /// The bucket is foreign, or its marker is missing.
    pub async fn at_start(&self) -> Result<(), BucketError> {
        match self.check().await {
            Ok(ownership) if !ownership.is_usable() => usable(Ok(ownership)),
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "The process starts all the same, and asks again");
                Ok(())
            }
        }
    }

    async fn read(&self, known: Option<Recorded>) -> ReadResult {
        let Shared { pool, bucket, .. } = &*self.0;
        let recorded = match known {
            None => database::with_timeout(storage::ownership::recorded(pool)).await?,
            Some(Recorded(known)) => {
                match timeout(UNADOPTED_CACHE_TTL, storage::ownership::recorded(pool)).await {
                    Ok(Ok(recorded)) => recorded,
                    Ok(Err(_)) | Err(_) => known,
                }
            }
        };
        let ownership = compare(recorded, bucket).await?;
        Ok((Recorded(recorded), ownership))
    }
}

/// What an id that was recorded says of a bucket.
async fn compare(recorded: Option<Uuid>, bucket: &Bucket) -> Result<Ownership, BucketError> {
    let Some(recorded) = recorded else {
        return Ok(Ownership::NotAdopted);
    };
    Ok(match bucket.marker().await {
        Ok(Some(marker)) if marker == recorded.to_string() => Ownership::Ours,
        Ok(Some(_)) => Ownership::Foreign,
        Ok(None) => Ownership::Absent,
        Err(error) if error.is_no_folder() => Ownership::Absent,
        Err(error) => return Err(error),
    })
}

fn usable(answer: Answer) -> Result<(), BucketError> {
    match answer {
        Ok(ownership) if ownership.is_usable() => Ok(()),
        Ok(ownership) => Err(BucketError::NotOurs(
            ownership.problem().unwrap_or_default(),
        )),
        Err(error) => Err(BucketError::Unsure(error)),
    }
}

impl Seen {
    /// Nobody waits any longer for the question that is under way. A thread that hangs on a folder's disk cannot be ended: no second one
    /// is started before it has come back.
    fn leave(&mut self, is_folder: bool) {
        if !is_folder && let Some((_, question)) = self.running.take() {
            question.abort();
        }
    }

    /// Keeps what was answered, and says so where it is another answer than before.
    fn note(&mut self, answered: Result<ReadResult, JoinError>) -> Answer {
        let (recorded, ownership) = answered
            .map_err(|error| Unknown(error.to_string()))?
            .map_err(|error| Unknown(error.to_string()))?;
        self.recorded = Some(recorded);
        for state in Ownership::ALL {
            telemetry::BUCKET_OWNERSHIP
                .with_label_values(&[state.as_str()])
                .set(i64::from(state == ownership));
        }
        let before = self.told.replace(ownership);
        match ownership.problem() {
            _ if before == Some(ownership) => {}
            None if before.is_none() => {}
            None => tracing::info!("The bucket is this database's"),
            Some(problem) if ownership.is_usable() => tracing::warn!("{problem}"),
            Some(problem) => tracing::error!("{problem}"),
        }
        Ok(ownership)
    }
}

/// What came of an adoption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It was ours already.
    Before,
    Now,
}

/// Why nothing was adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error(
        "the marker in the bucket names another database ({0}). If this database is to use this bucket from now on, say --replace: every process of the other one stops to delete, and to start jobs"
    )]
    AnothersMarker(String),
    #[error(
        "this database has adopted another bucket, and this one has no marker. If its files were moved here, say --replace"
    )]
    AnotherBucket,
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Whether a database has no tenant and no bucket, as a role sees it that reads everything.
pub async fn is_new(reader: &PgPool) -> sqlx::Result<bool> {
    storage::ownership::is_new(reader).await
}

/// Whose the bucket is, asked once: for programs that run once.
///
/// # Errors
///
/// Postgres or the bucket did not answer.
pub async fn examine(pool: &PgPool, bucket: &Bucket) -> Result<Ownership, SearchError> {
    let recorded = storage::ownership::recorded(pool).await?;
    Ok(compare(recorded, bucket).await?)
}

/// As [`examine`], and an error unless files may be written to it and read from it.
///
/// # Errors
///
/// It is another database's, it lacks its marker, or Postgres or the bucket did not answer.
pub async fn must_be_usable(pool: &PgPool, bucket: &Bucket) -> Result<(), SearchError> {
    Ok(usable(Ok(examine(pool, bucket).await?))?)
}

/// Makes the bucket this database's: a new id is recorded and written to its marker, so that a process on the bucket of before,
/// or on a copy of this one, is told apart. `replace` takes a bucket whose marker is another's, and one that was moved.
///
/// # Errors
///
/// The marker names another database, or this database has another bucket, and `replace` was not said.
pub async fn adopt(
    pool: &PgPool,
    bucket: &Bucket,
    address: &str,
    act: Actor<'_>,
    replace: bool,
) -> Result<Adopted, AdoptError> {
    let mut transaction = pool.begin().await?;
    storage::ownership::lock(&mut transaction).await?;
    let recorded = storage::ownership::recorded(&mut *transaction).await?;
    match (recorded, bucket.marker().await?) {
        _ if replace => {}
        (None, None) => {}
        (Some(recorded), Some(marker)) if marker == recorded.to_string() => {
            return Ok(Adopted::Before);
        }
        (_, Some(marker)) => return Err(AdoptError::AnothersMarker(marker)),
        (Some(_), None) => return Err(AdoptError::AnotherBucket),
    }
    let marker = Uuid::now_v7();
    storage::ownership::record(&mut transaction, marker, address).await?;
    let subject = json!({ "bucket": address, "marker": marker, "before": recorded });
    storage::operators::record(&mut transaction, act, "adopt_bucket", &subject).await?;
    // Before the commit: a bucket that cannot be written to is not adopted.
    bucket.write_marker(&marker.to_string(), replace).await?;
    transaction.commit().await?;
    Ok(Adopted::Now)
}

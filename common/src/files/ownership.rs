//! Checks that the bucket belongs to this database.
//!
//! A marker object in the bucket carries an id, and the database has recorded the same id. If the
//! two differ, `PLATEN_BUCKET` is probably wrong, or a volume is not mounted. Then nothing is
//! deleted, no receipt of a deletion is written, and no job is started, because its files would be
//! lost.
//!
//! Only [`adopt`] writes the marker: for `platen bucket adopt`, and for `platen up` on a new
//! database. An api or a worker never writes it, because it could adopt the wrong bucket by itself.
//! The reasons are in docs/decisions/0024.

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

/// How long an answer of [`OwnershipChecker::check`] is reused, and so is the recorded id.
const CACHE_TTL: Duration = Duration::from_secs(1);
/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long Postgres may take to return the recorded id, if it has returned one before. After that,
/// the last known id is used: it changes only when an operator adopts a bucket.
const RECORDED_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks for a process which database the bucket belongs to. One check runs at a time, and its
/// answer is cached for a second. Clones share the check and the cache.
#[derive(Clone)]
pub struct OwnershipChecker(Arc<Shared>);

struct Shared {
    pool: PgPool,
    bucket: Bucket,
    /// Locked while a check runs.
    state: Mutex<CheckState>,
}

/// Which database the bucket belongs to, or why that is not known.
type Answer = Result<Ownership, Unknown>;
/// The recorded id, and what the bucket's marker says compared with it.
type ReadResult = Result<(RecordedId, Ownership), ReadError>;

/// The id that the database has recorded.
#[derive(Clone, Copy, Debug)]
struct RecordedId {
    /// `None` if no bucket was adopted.
    id: Option<Uuid>,
    /// When it was read.
    read_at: Instant,
}

/// What the checks of a process have found, and the one that runs.
#[derive(Default)]
struct CheckState {
    /// The last answer, and when its check was started.
    last: Option<(Instant, Answer)>,
    /// A check that has not ended, and when it was started. It goes on even if its callers give up.
    running: Option<(Instant, JoinHandle<ReadResult>)>,
    /// The id that the database reported last; `None` if it has reported none yet.
    recorded: Option<RecordedId>,
    /// The result that was logged last.
    logged: Option<Ownership>,
}

/// Why the recorded id and the marker could not be compared.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("Postgres: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the bucket: {0}")]
    Bucket(#[from] BucketError),
}

impl OwnershipChecker {
    /// A checker for this database and this bucket. Sends no request yet.
    pub fn new(pool: PgPool, bucket: Bucket) -> Self {
        Self(Arc::new(Shared {
            pool,
            bucket,
            state: Mutex::default(),
        }))
    }

    /// Finds out which database the bucket belongs to. The answer is at most a second old.
    ///
    /// # Errors
    /// Returns an error if the bucket or Postgres fails, or does not answer within five seconds.
    pub async fn check(&self) -> Answer {
        let now = Instant::now();
        self.check_since(now.checked_sub(CACHE_TTL).unwrap_or(now))
            .await
    }

    /// Does the same as [`Self::check`], with an answer whose check was started at `since` or
    /// later. A caller that has changed something passes a time after the change.
    ///
    /// # Errors
    /// Returns an error if the bucket or Postgres fails, or does not answer within five seconds.
    #[expect(
        clippy::disallowed_methods,
        reason = "`tokio::spawn`: shutdown must not wait for this task, because the bucket may hang"
    )]
    pub async fn check_since(&self, since: Instant) -> Answer {
        let deadline = Instant::now() + CHECK_TIMEOUT;
        // Held while the check runs: other callers wait here, and then use its answer.
        let mut state = self.0.state.lock().await;
        loop {
            if let Some((started, answer)) = &state.last
                && *started >= since
            {
                return answer.clone();
            }
            let recorded = state.recorded;
            // A check that was started for an earlier caller may be too old for this caller. Then
            // the loop waits for that check, and its next round starts another one.
            let (started, running) = state.running.get_or_insert_with(|| {
                let owner = self.clone();
                let read = async move { owner.read(recorded).await };
                (Instant::now(), tokio::spawn(read))
            });
            let started = *started;
            let (at, answer) = match timeout_at(deadline, running).await {
                Ok(result) => {
                    state.running = None;
                    (started, state.record(result))
                }
                // The failure gets the present time, so that callers that wait for the lock do not
                // wait as long again.
                Err(_) => {
                    state.abandon(self.0.bucket.is_folder());
                    let text = format!("no answer within {} s", CHECK_TIMEOUT.as_secs());
                    (Instant::now(), Err(Unknown(text)))
                }
            };
            state.last = Some((at, answer));
        }
    }

    /// Checks that files may be written to the bucket and read from it. The answer is at most a
    /// second old.
    ///
    /// # Errors
    /// Returns an error if the bucket belongs to another database or lacks its marker, or if the
    /// check fails.
    pub async fn must_be_usable(&self) -> Result<(), BucketError> {
        require_usable(self.check().await)
    }

    /// Does the same as [`Self::must_be_usable`], with an answer whose check was started at `since`
    /// or later.
    ///
    /// # Errors
    /// Returns an error if the bucket belongs to another database or lacks its marker, or if the
    /// check fails.
    pub async fn must_be_usable_since(&self, since: Instant) -> Result<(), BucketError> {
        require_usable(self.check_since(since).await)
    }

    /// Whether files may be deleted from the bucket: it belongs to this database. The answer is at
    /// most a second old. Returns `false` if the check fails.
    pub async fn allows_deletion(&self) -> bool {
        matches!(self.check().await, Ok(Ownership::Ours))
    }

    /// The check of a process that starts. A bucket that does not answer does not stop the process:
    /// it checks again before it uses the bucket.
    ///
    /// # Errors
    /// Returns an error if the bucket belongs to another database or lacks its marker.
    pub async fn check_at_start(&self) -> Result<(), BucketError> {
        match self.check().await {
            Ok(ownership) if !ownership.is_usable() => require_usable(Ok(ownership)),
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "The bucket could not be checked. The process starts, and checks it again");
                Ok(())
            }
        }
    }

    /// Reads the recorded id and the marker. `known` is the id that the database reported before. It
    /// is used again for a second, because a worker checks the bucket after each file that it writes,
    /// and only an operator changes the id. While Postgres is unavailable it is used for longer, so
    /// workers can store images that were paid for.
    async fn read(&self, known: Option<RecordedId>) -> ReadResult {
        let Shared { pool, bucket, .. } = &*self.0;
        let read_at = Instant::now();
        let read = storage::ownership::recorded(pool);
        let recorded = match known {
            Some(known) if known.read_at.elapsed() < CACHE_TTL => known,
            Some(known) => match timeout(RECORDED_TIMEOUT, read).await {
                Ok(Ok(id)) => RecordedId { id, read_at },
                Ok(Err(_)) | Err(_) => known,
            },
            None => {
                let id = database::with_timeout(read).await?;
                RecordedId { id, read_at }
            }
        };
        let ownership = compare(recorded.id, bucket).await?;
        Ok((recorded, ownership))
    }
}

/// Compares the recorded id with the marker in the bucket.
async fn compare(recorded: Option<Uuid>, bucket: &Bucket) -> Result<Ownership, BucketError> {
    let Some(recorded) = recorded else {
        return Ok(Ownership::NotAdopted);
    };
    Ok(match bucket.marker().await {
        Ok(Some(marker)) if marker == recorded.to_string() => Ownership::Ours,
        Ok(Some(_)) => Ownership::Foreign,
        Ok(None) => Ownership::Absent,
        // The folder does not exist: most likely its volume is not mounted.
        Err(error) if error.is_no_folder() => Ownership::Absent,
        Err(error) => return Err(error),
    })
}

/// Turns an answer into an error, unless files may be written to the bucket and read from it.
fn require_usable(answer: Answer) -> Result<(), BucketError> {
    match answer {
        Ok(ownership) if ownership.is_usable() => Ok(()),
        Ok(ownership) => Err(BucketError::NotOurs(
            ownership.problem().unwrap_or_default(),
        )),
        Err(error) => Err(BucketError::Unsure(error)),
    }
}

impl CheckState {
    /// Gives up the running check, unless the bucket is a folder. The check of a folder may hang on
    /// the disk, and its thread cannot be stopped. So that check stays in `running`, and no second
    /// one is started before it ends. Otherwise each caller would leave one more such thread.
    fn abandon(&mut self, is_folder: bool) {
        if !is_folder && let Some((_, running)) = self.running.take() {
            running.abort();
        }
    }

    /// Records the result of a check: sets the metric, and logs the result if it differs from the
    /// last one.
    fn record(&mut self, result: Result<ReadResult, JoinError>) -> Answer {
        let (recorded, ownership) = result
            .map_err(|error| Unknown(error.to_string()))?
            .map_err(|error| Unknown(error.to_string()))?;
        self.recorded = Some(recorded);
        for &state in Ownership::ALL {
            telemetry::BUCKET_OWNERSHIP
                .with_label_values(&[state.as_str()])
                .set(i64::from(state == ownership));
        }
        let before = self.logged.replace(ownership);
        match ownership.problem() {
            _ if before == Some(ownership) => {}
            None if before.is_none() => {}
            None => tracing::info!("The bucket belongs to this database"),
            Some(problem) if ownership.is_usable() => tracing::warn!("{problem}"),
            Some(problem) => tracing::error!("{problem}"),
        }
        Ok(ownership)
    }
}

/// What [`adopt`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptResult {
    /// Nothing, because the bucket belonged to this database already.
    Before,
    /// The bucket belongs to this database from now on.
    Now,
}

/// Why nothing was adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The marker names another database. The value is the marker's text.
    #[error(
        "the marker in the bucket names another database ({0}). If this database is to use this bucket from now on, add --replace: every process of the other database then stops deleting files and starting jobs"
    )]
    AnothersMarker(String),
    /// The database has recorded an id, and the bucket has no marker.
    #[error(
        "this database has adopted another bucket, and this one has no marker. If its files were moved here, add --replace"
    )]
    AnotherBucket,
    /// The bucket failed.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Whether a database has no tenant and has adopted no bucket. `reader` must act as a role that
/// sees all tenants.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn is_new(reader: &PgPool) -> sqlx::Result<bool> {
    storage::ownership::is_new(reader).await
}

/// Finds out which database the bucket belongs to, without a cache. For commands that run once.
///
/// # Errors
/// Returns an error if Postgres or the bucket fails.
pub async fn examine(pool: &PgPool, bucket: &Bucket) -> Result<Ownership, SearchError> {
    let recorded = storage::ownership::recorded(pool).await?;
    Ok(compare(recorded, bucket).await?)
}

/// Checks that files may be written to the bucket and read from it, without a cache.
///
/// # Errors
/// Returns an error if the bucket belongs to another database or lacks its marker, or if Postgres
/// or the bucket fails.
pub async fn must_be_usable(pool: &PgPool, bucket: &Bucket) -> Result<(), SearchError> {
    Ok(require_usable(Ok(examine(pool, bucket).await?))?)
}

/// Makes the bucket this database's: records a new id and writes it to the marker.
///
/// The recorded id is new each time. So a process that still uses the previous bucket, or a copy of
/// the adopted bucket, notices that the marker of its bucket is no longer the recorded one. With
/// `replace`, a bucket is also adopted if it has the marker of another database, or if it has no
/// marker and this database has adopted a bucket before. `address` is recorded for operators.
///
/// # Errors
/// Without `replace`, returns an error if the marker names another database, or if this database
/// has another bucket. In any case returns an error if Postgres or the bucket fails.
pub async fn adopt(
    pool: &PgPool,
    bucket: &Bucket,
    address: &str,
    actor: Actor<'_>,
    replace: bool,
) -> Result<AdoptResult, AdoptError> {
    let mut transaction = database::begin(pool).await?;
    storage::ownership::lock(&mut transaction).await?;
    let recorded = storage::ownership::recorded(&mut *transaction).await?;
    match (recorded, bucket.marker().await?) {
        _ if replace => {}
        (None, None) => {}
        (Some(recorded), Some(marker)) if marker == recorded.to_string() => {
            return Ok(AdoptResult::Before);
        }
        (_, Some(marker)) => return Err(AdoptError::AnothersMarker(marker)),
        (Some(_), None) => return Err(AdoptError::AnotherBucket),
    }
    let marker = Uuid::now_v7();
    storage::ownership::record(&mut transaction, marker, address).await?;
    let subject = json!({ "bucket": address, "marker": marker, "before": recorded });
    storage::operators::record(&mut transaction, actor, "adopt_bucket", &subject).await?;
    // The marker is written before the commit, so a bucket that cannot be written to is not
    // adopted. If the commit fails the bucket counts as foreign, or as not adopted, until the
    // command is repeated with --replace, and nothing is deleted meanwhile.
    bucket.write_marker(&marker.to_string(), replace).await?;
    transaction.commit().await?;
    Ok(AdoptResult::Now)
}

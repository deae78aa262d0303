//! The bucket as a worker uses it. While the bucket is unavailable, results that were paid for wait
//! in memory.
//!
//! An image that cannot be stored is kept in memory, within a limit, and its write is repeated for
//! as long as the worker holds the job. A result that finds no memory waits on disk, if there is
//! space set aside for it. While a result waits, or the bucket does not answer, no further job
//! starts and no call is made, so only calls that were already running add to what waits. A worker
//! that is killed loses the results that wait. Their calls end as `unknown` and are paid again.
//! `docs/decisions/0014` explains why the spool is in memory first, and `0041` what is on disk.

mod disk;

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use bucket::{Bucket, BucketError, PROBE_PREFIX, StoredObject};
use bytes::Bytes;
use common::files::ownership::OwnershipChecker;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;

use disk::{Disk, SpooledFile};

/// How long after its last success the bucket is probed.
const PROBE_AFTER: Duration = Duration::from_secs(5);
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// The unit in which the spool's memory is counted. Bytes would not fit a semaphore's permits,
/// which have 32 bits.
const KIB: usize = 1024;

/// The bucket, whether it is available, and how many results wait for it.
pub struct Spool {
    bucket: Bucket,
    /// The check that this is the installation's own bucket. Any other bucket counts as
    /// unavailable.
    owner: OwnershipChecker,
    /// Whether the bucket is unavailable. Results that wait for it watch this value.
    is_unavailable: watch::Sender<bool>,
    /// When a request to the bucket last succeeded.
    last_success: Mutex<Option<Instant>>,
    /// The memory that results may wait in, in KiB.
    capacity_kib: u32,
    /// The part of `capacity_kib` that no result takes.
    free_kib: Semaphore,
    /// The disk space for results that find no memory.
    disk: Disk,
    /// How many results wait, in memory and on disk.
    waiting: AtomicUsize,
    /// Whether the log and the metric say at present that no job starts.
    reported_stopped: AtomicBool,
}

impl Spool {
    /// Creates a spool in which at most `capacity` bytes may wait in memory, and at most
    /// `disk_capacity` bytes on disk.
    pub fn new(
        bucket: Bucket,
        owner: OwnershipChecker,
        capacity: usize,
        disk_capacity: usize,
    ) -> Self {
        // A metric appears in scrapes once it is written, so each is written here before anything
        // happens.
        telemetry::BUCKET_UNAVAILABLE.set(0);
        telemetry::SPOOL_BYTES.add(0);
        telemetry::SPOOL_REFUSED.inc_by(0);
        let capacity_kib = u32::try_from(capacity / KIB).unwrap_or(u32::MAX);
        Self {
            bucket,
            owner,
            is_unavailable: watch::Sender::new(false),
            last_success: Mutex::default(),
            capacity_kib,
            free_kib: Semaphore::new(capacity_kib as usize),
            disk: Disk::new(disk_capacity),
            waiting: AtomicUsize::default(),
            reported_stopped: AtomicBool::default(),
        }
    }

    /// The bucket itself, for tasks that list and delete.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The check that the bucket belongs to this installation.
    pub fn owner(&self) -> &OwnershipChecker {
        &self.owner
    }

    /// Whether a result that is bought now could be stored: the bucket is available, and nothing
    /// waits for it.
    pub fn accepts_results(&self) -> bool {
        !*self.is_unavailable.borrow() && self.waiting.load(Ordering::Relaxed) == 0
    }

    /// Reads a whole object. Returns `None` if there is no such object.
    ///
    /// # Errors
    ///
    /// Returns an error if the bucket cannot be read, or if the object is missing and the bucket is
    /// not known to be this installation's own.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, BucketError> {
        let read_started = tokio::time::Instant::now();
        let object = match self.bucket.get(key).await {
            // A wrong bucket has no such object either; that must not read as "never stored".
            Ok(None) => self
                .owner
                .must_be_usable_since(read_started)
                .await
                .map(|()| None),
            object => object,
        };
        match &object {
            // A bucket that can be read may still refuse writes, so this does not make it
            // available.
            Ok(_) => self.note_success(),
            Err(error) => self.note_failure(error),
        }
        object
    }

    /// Stores something that can be made again, in up to four tries.
    ///
    /// # Errors
    ///
    /// Returns the last try's error if all tries fail. The job's next attempt makes the object
    /// again.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<StoredObject, BucketError> {
        (|| self.put_once(key, bytes.clone()))
            .retry(retry_delays().with_max_times(3))
            .when(BucketError::is_transient)
            .await
    }

    /// Stores a result that was paid for, after the first try failed with `first_error`. Repeats
    /// the write until it succeeds, until `deadline`, or until the caller drops the future.
    /// `other_bytes_in_memory` is how many bytes the caller keeps in memory meanwhile, besides
    /// `bytes`. They count against the spool's memory, too, if the result waits in memory.
    ///
    /// # Errors
    ///
    /// Returns `first_error` if it is permanent, if the result fits neither in memory nor on disk,
    /// or if `deadline` passes. Returns the error of a later try if that error is permanent.
    pub async fn store_when_available(
        &self,
        key: &str,
        bytes: Bytes,
        other_bytes_in_memory: usize,
        deadline: Option<Instant>,
        first_error: BucketError,
    ) -> Result<StoredObject, BucketError> {
        if !first_error.is_transient() {
            return Err(first_error);
        }
        let Some((waiting, _reservation)) = self.keep(bytes, other_bytes_in_memory).await else {
            telemetry::SPOOL_REFUSED.inc();
            return Err(first_error);
        };
        self.report(&first_error);
        tracing::warn!(key, error = %first_error, "An image waits until the bucket is available");
        let tries = async {
            let mut is_unavailable = self.is_unavailable.subscribe();
            for delay in retry_delays().without_max_times().build() {
                tokio::time::sleep(delay).await;
                // An error would mean that the sender is gone, but `self` owns it.
                drop(is_unavailable.wait_for(|unavailable| !unavailable).await);
                match self.put_waiting(key, &waiting).await {
                    Err(error) if error.is_transient() => {}
                    final_result => return Some(final_result),
                }
            }
            None
        };
        let deadline_passes = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // `tries` never returns `None`, because its delays have no end.
            stored = tries => stored.unwrap_or(Err(first_error)),
            () = deadline_passes => Err(first_error),
        }
    }

    /// Keeps a result until it is stored: in memory, or else on disk. Returns `None` if it fits in
    /// neither.
    async fn keep(
        &self,
        bytes: Bytes,
        other_bytes_in_memory: usize,
    ) -> Option<(WaitingResult<'_>, Reservation<'_>)> {
        let length = bytes.len();
        let bytes_in_memory = length.saturating_add(other_bytes_in_memory);
        if let Some(permit) = self.reserve(bytes_in_memory) {
            let reservation = Reservation::new(self, bytes_in_memory, Some(permit));
            return Some((WaitingResult::InMemory(bytes), reservation));
        }
        // Counted before the file is written, so that no job starts meanwhile.
        let reservation = Reservation::new(self, length, None);
        let file = self.disk.store(bytes).await?;
        Some((WaitingResult::OnDisk(file), reservation))
    }

    /// Stores a result that waits, in one try.
    async fn put_waiting(
        &self,
        key: &str,
        waiting: &WaitingResult<'_>,
    ) -> Result<StoredObject, BucketError> {
        match waiting {
            WaitingResult::InMemory(bytes) => self.put_once(key, bytes.clone()).await,
            WaitingResult::OnDisk(file) => {
                // The guard is held until the write has ended, so that no other result is read from
                // disk meanwhile.
                let read = file.read().await;
                let (bytes, _guard) =
                    read.map_err(|error| BucketError::File("the spool's file".to_owned(), error))?;
                self.put_once(key, bytes).await
            }
        }
    }

    /// Checks that the bucket is this installation's own and that it answers, and updates whether
    /// it is available. Skips the request if an available bucket answered within [`PROBE_AFTER`]. A
    /// bucket that was unavailable must accept a write before it counts as available, because a
    /// full bucket can still be read.
    pub async fn probe(&self) {
        if let Err(error) = self.owner.must_be_usable().await {
            return self.mark_unavailable(&error);
        }
        let was_unavailable = *self.is_unavailable.borrow();
        let last_success = *self
            .last_success
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !was_unavailable && last_success.is_some_and(|at| at.elapsed() < PROBE_AFTER) {
            return;
        }
        let probe = timeout(PROBE_TIMEOUT, async {
            if was_unavailable {
                self.bucket.probe().await
            } else {
                // No object has this key, so nothing is read. The answer alone counts.
                let missing_key = format!("{PROBE_PREFIX}nothing");
                self.bucket.measure(&missing_key).await.map(drop)
            }
        });
        match probe.await {
            Ok(Ok(())) => self.mark_available(),
            Ok(Err(error)) => self.mark_unavailable(&error),
            Err(_) => self.mark_unavailable(&"the bucket does not answer"),
        }
    }

    /// Stores an object in one try. The object counts as stored only if the bucket was this
    /// installation's own before and after the write, because the bucket may be swapped in between.
    ///
    /// # Errors
    ///
    /// Returns an error if the bucket refuses the object, does not answer, or is not known to be
    /// this installation's own.
    pub async fn put_once(&self, key: &str, bytes: Bytes) -> Result<StoredObject, BucketError> {
        let put = async {
            self.owner.must_be_usable().await?;
            let stored = self.bucket.put_new(key, bytes).await?;
            let written = tokio::time::Instant::now();
            self.owner.must_be_usable_since(written).await?;
            Ok(stored)
        }
        .await;
        match &put {
            Ok(_) => self.mark_available(),
            Err(error) => self.note_failure(error),
        }
        put
    }

    fn note_failure(&self, error: &BucketError) {
        if error.is_transient() {
            self.mark_unavailable(error);
        }
    }

    fn mark_unavailable(&self, reason: &dyn Display) {
        self.is_unavailable.send_replace(true);
        self.report(reason);
    }

    fn mark_available(&self) {
        self.note_success();
        self.is_unavailable.send_replace(false);
        self.report(&"");
    }

    /// Updates the log and the metric when jobs stop or start again. `reason` is logged when they
    /// stop. If a bucket accepts the probe of each second but no image, this stays one outage,
    /// because jobs start only when nothing waits any more.
    fn report(&self, reason: &dyn Display) {
        let is_stopped = !self.accepts_results();
        if self.reported_stopped.swap(is_stopped, Ordering::Relaxed) == is_stopped {
            return;
        }
        telemetry::BUCKET_UNAVAILABLE.set(i64::from(is_stopped));
        if is_stopped {
            tracing::warn!(error = %reason, "The bucket is unavailable: no further job starts");
        } else {
            tracing::info!("The bucket is available and nothing waits for it: jobs start again");
        }
    }

    fn note_success(&self) {
        *self
            .last_success
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Reserves memory for a result that waits. Returns `None` if there is not enough memory.
    fn reserve(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        // Without this line, a spool without memory would accept every result: the limit below
        // would make each of them need 0 KiB.
        if self.capacity_kib == 0 {
            return None;
        }
        let needed = u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX);
        // A result larger than the whole spool may wait alone. If it were refused, it would be
        // bought again and again.
        let needed = needed.min(self.capacity_kib);
        self.free_kib.try_acquire_many(needed).ok()
    }
}

/// Where a result waits.
enum WaitingResult<'a> {
    InMemory(Bytes),
    OnDisk(SpooledFile<'a>),
}

/// Counts one result that waits, and holds its memory. Both end on drop, also when the attempt is
/// dropped because its lease was lost.
struct Reservation<'a> {
    spool: &'a Spool,
    /// How many bytes the metric counts for the result.
    bytes: usize,
    /// The result's memory; `None` for a result on disk.
    _permit: Option<SemaphorePermit<'a>>,
}

impl<'a> Reservation<'a> {
    fn new(spool: &'a Spool, bytes: usize, permit: Option<SemaphorePermit<'a>>) -> Self {
        spool.waiting.fetch_add(1, Ordering::Relaxed);
        telemetry::SPOOL_BYTES.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        Self {
            spool,
            bytes,
            _permit: permit,
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.spool.waiting.fetch_sub(1, Ordering::Relaxed);
        telemetry::SPOOL_BYTES.sub(i64::try_from(self.bytes).unwrap_or(i64::MAX));
        self.spool.report(&"");
    }
}

fn retry_delays() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
}

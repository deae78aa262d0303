//! The bucket, as a worker relies on it: it may be away, and what was paid for waits until it is back.
//!
//! A picture that cannot be stored is kept in memory, within a bound, and tried again for as long as its job is ours. While
//! one waits, or the bucket does not answer, no further job is started and no call made, so what waits is at most what
//! was under way. A worker that is killed loses what waits: those calls end as `unknown`, and are bought again. Why in
//! memory: docs/decisions/0014.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use bytes::Bytes;
use common::bucket::{Bucket, BucketError, PROBE_PREFIX, Stored};
use common::ownership::Owner;
use common::telemetry;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;

/// How long nothing may be heard of the bucket before it is asked whether it is there.
const PROBE_AFTER: Duration = Duration::from_secs(5);
/// How long it may take to say so.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// What room is counted in.
const KIB: usize = 1024;

/// A bucket, what is known of it, and what waits for it.
pub struct Spool {
    bucket: Bucket,
    /// Whether it is the right one: another counts as one that is away.
    owner: Owner,
    away: watch::Sender<bool>,
    /// When it last answered.
    heard: Mutex<Option<Instant>>,
    /// Room for what waits, in KiB: how much there is, and what of it is free.
    rooms: u32,
    room: Semaphore,
    waiting: AtomicUsize,
    /// That it takes no more was told.
    told: AtomicBool,
}

impl Spool {
    /// `room`: bytes that may wait.
    pub fn new(bucket: Bucket, owner: Owner, room: usize) -> Self {
        // So that they are told from the start.
        telemetry::BUCKET_UNAVAILABLE.set(0);
        telemetry::SPOOL_BYTES.add(0);
        telemetry::SPOOL_REFUSED.inc_by(0);
        let rooms = u32::try_from(room / KIB).unwrap_or(u32::MAX);
        Self {
            bucket,
            owner,
            away: watch::Sender::new(false),
            heard: Mutex::default(),
            rooms,
            room: Semaphore::new(rooms as usize),
            waiting: AtomicUsize::default(),
            told: AtomicBool::default(),
        }
    }

    /// For the sweeper, which lists and removes.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Whose it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Whether what is bought now would find its place.
    pub fn accepts_results(&self) -> bool {
        !*self.away.borrow() && self.waiting.load(Ordering::Relaxed) == 0
    }

    /// The whole object, or `None` when there is none.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, BucketError> {
        let asked = tokio::time::Instant::now();
        let got = match self.bucket.get(key).await {
            // Perhaps it is in the bucket that should be here.
            Ok(None) => self.owner.usable_since(asked).await.map(|()| None),
            got => got,
        };
        match &got {
            // That it can be read does not say that it can be written.
            Ok(_) => self.note_success(),
            Err(error) => self.note_failure(error),
        }
        got
    }

    /// Stores what can be made again. An error is for the job's next attempt.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<Stored, BucketError> {
        (|| self.put_once(key, bytes.clone()))
            .retry(delays().with_max_times(3))
            .when(BucketError::is_transient)
            .await
    }

    /// Stores what was paid for, after the first try `failed`, for as long as the caller waits, but not past `until`.
    /// `beside` is what the caller holds meanwhile, in bytes. An error: it was not stored, or there is no room to wait in.
    pub async fn store_when_available(
        &self,
        key: &str,
        bytes: Bytes,
        beside: usize,
        until: Option<Instant>,
        failed: BucketError,
    ) -> Result<Stored, BucketError> {
        if !failed.is_transient() {
            return Err(failed);
        }
        let Some(_wait) = self.reserve(bytes.len().saturating_add(beside)) else {
            telemetry::SPOOL_REFUSED.inc();
            return Err(failed);
        };
        self.report(&failed);
        tracing::warn!(key, error = %failed, "A picture waits for the bucket");
        let tries = async {
            let mut away = self.away.subscribe();
            for delay in delays().without_max_times().build() {
                tokio::time::sleep(delay).await;
                // Its sender is in `self`, so there is no error.
                drop(away.wait_for(|away| !away).await);
                match self.put_once(key, bytes.clone()).await {
                    Err(error) if error.is_transient() => {}
                    decided => return Some(decided),
                }
            }
            None
        };
        let over = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stored = tries => stored.unwrap_or(Err(failed)),
            () = over => Err(failed),
        }
    }

    /// Asks whether the bucket is the right one, and whether it is there, where nobody else has lately. Once it was away it must
    /// take an object.
    pub async fn probe(&self) {
        if let Err(error) = self.owner.usable().await {
            return self.mark_unavailable(&error);
        }
        let away = *self.away.borrow();
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if !away && heard.is_some_and(|heard| heard.elapsed() < PROBE_AFTER) {
            return;
        }
        let looked = timeout(PROBE_TIMEOUT, async {
            if away {
                self.bucket.probe().await
            } else {
                let nothing = format!("{PROBE_PREFIX}nothing");
                self.bucket.measure(&nothing).await.map(drop)
            }
        });
        match looked.await {
            Ok(Ok(())) => self.mark_available(),
            Ok(Err(error)) => self.mark_unavailable(&error),
            Err(_) => self.mark_unavailable(&"it does not answer"),
        }
    }

    /// One try to store something. It counts as stored only if the bucket was the right one before and after.
    pub async fn put_once(&self, key: &str, bytes: Bytes) -> Result<Stored, BucketError> {
        let put = async {
            self.owner.usable().await?;
            let stored = self.bucket.put_new(key, bytes).await?;
            let written = tokio::time::Instant::now();
            self.owner.usable_since(written).await?;
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

    fn mark_unavailable(&self, why: &dyn Display) {
        self.away.send_replace(true);
        self.report(why);
    }

    fn mark_available(&self) {
        self.note_success();
        self.away.send_replace(false);
        self.report(&"");
    }

    /// Says so when jobs are no longer started, and when they are again. A bucket may take a test each second and no
    /// picture: that is one trouble, not many.
    fn report(&self, why: &dyn Display) {
        let stopped = !self.accepts_results();
        if self.told.swap(stopped, Ordering::Relaxed) == stopped {
            return;
        }
        telemetry::BUCKET_UNAVAILABLE.set(i64::from(stopped));
        if stopped {
            tracing::warn!(error = %why, "The bucket is away: no further job is started");
        } else {
            tracing::info!("The bucket is back, and nothing waits for it: jobs are started");
        }
    }

    fn note_success(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// A place for something that waits.
    fn reserve(&self, bytes: usize) -> Option<Reservation<'_>> {
        let needed = u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX);
        // What is larger than all the room there is may wait alone: refused, it would be bought again and again.
        let room = self.room.try_acquire_many(needed.min(self.rooms)).ok()?;
        if self.rooms == 0 {
            return None;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        telemetry::SPOOL_BYTES.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        Some(Reservation {
            spool: self,
            bytes,
            _room: room,
        })
    }
}

/// Something waits. Ends by itself: the attempt is dropped when its lease is lost.
struct Reservation<'a> {
    spool: &'a Spool,
    bytes: usize,
    _room: SemaphorePermit<'a>,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.spool.waiting.fetch_sub(1, Ordering::Relaxed);
        telemetry::SPOOL_BYTES.sub(i64::try_from(self.bytes).unwrap_or(i64::MAX));
        self.spool.report(&"");
    }
}

fn delays() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
}

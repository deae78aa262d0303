//! The leases this worker holds: renewed together by one statement, and not relied on for longer than they stand.
//!
//! A worker that cannot reach the database begins nothing more once its lease may have run out there, by its own
//! monotonic clock. A call that is under way is heard to its end all the same: it is paid for, its picture is stored
//! under its own key, and whoever works on the job by then takes it over. Only when the database says that the job
//! belongs to another is everything dropped at once.
//!
//! An attempt that hangs must not renew its lease for ever: each says how long its next step may take, and one that
//! took longer is dropped. Its job then goes the way of a worker that died.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::failpoint::reach;
use common::id::JobId;
use common::{database, job};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// Every lease this worker holds.
#[derive(Clone, Default)]
pub struct Leases(Arc<Mutex<HashMap<JobId, Held>>>);

struct Held {
    fence: i32,
    /// Until when the lease surely stands, counted from before it was asked for.
    good_until: Instant,
    /// Steps under way, and until when each may take; between them, when the last one ended.
    steps: HashMap<u64, Instant>,
    stepped: Instant,
    lost: CancellationToken,
}

/// A step under way; dropping it ends it.
#[must_use]
pub struct Step<'a> {
    lease: &'a HeldLease,
    number: u64,
}

/// A lease while it is worked under; dropping it forgets the lease.
pub struct HeldLease {
    job: JobId,
    fence: i32,
    lease: Duration,
    leases: Leases,
    /// Cancelled when the lease is lost: stop at once, change nothing.
    pub lost: CancellationToken,
}

impl HeldLease {
    /// Whether the lease surely stands; a sixth of it is what beginning something may take.
    pub fn stands(&self) -> bool {
        let good_until = self.own(|held| held.good_until);
        good_until.is_some_and(|until| Instant::now() + self.lease / 6 < until)
    }

    /// A step begins that may take this long. Between steps nothing may take longer than two leases.
    pub fn may_take(&self, time: Duration) -> Step<'_> {
        let number = rand::random();
        // A time that is out of all bounds is none.
        let until = Instant::now().checked_add(time);
        self.own(|held| until.map(|until| held.steps.insert(number, until)));
        Step {
            lease: self,
            number,
        }
    }

    /// Ends when the work hangs.
    pub async fn hangs(&self) {
        let hangs_at = |held: &mut Held| {
            let latest = held.steps.values().max().copied();
            latest.unwrap_or(held.stepped) + self.lease * 2
        };
        while let Some(at) = self.own(hangs_at) {
            if at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(at.into()).await;
        }
        // This worker has claimed the job again: `lost` says so.
        std::future::pending::<()>().await;
    }

    /// What is held under this very fence: this worker may have claimed the job again meanwhile.
    fn own<T>(&self, ask: impl FnOnce(&mut Held) -> T) -> Option<T> {
        let mut leases = self.leases.0.lock().expect("no panic while it is held");
        let held = leases.get_mut(&self.job);
        held.filter(|held| held.fence == self.fence).map(ask)
    }
}

impl Leases {
    /// Remembers a lease that was asked for at `asked`.
    pub fn hold(&self, job: JobId, fence: i32, asked: Instant, lease: Duration) -> HeldLease {
        let lost = CancellationToken::new();
        let held = Held {
            fence,
            good_until: asked + lease,
            steps: HashMap::new(),
            stepped: Instant::now(),
            lost: lost.clone(),
        };
        let before = self
            .0
            .lock()
            .expect("no panic while it is held")
            .insert(job, held);
        if let Some(before) = before {
            before.lost.cancel();
        }
        HeldLease {
            job,
            fence,
            lease,
            leases: self.clone(),
            lost,
        }
    }

    /// Renews all of them. Those that another has by now are cancelled.
    pub async fn renew(&self, pool: &PgPool, lease: Duration) {
        let held: Vec<(JobId, i32)> = {
            let leases = self.0.lock().expect("no panic while it is held");
            leases
                .iter()
                .map(|(&job, held)| (job, held.fence))
                .collect()
        };
        if held.is_empty() {
            return;
        }
        let asked = Instant::now();
        // A renewal that hangs is a renewal that failed.
        let renewal = database::with_timeout(async {
            reach("renew:before_renew").await?;
            job::store::renew(pool, &held, lease).await
        });
        let renewed = tokio::time::timeout(lease / 4, renewal).await;
        let mut leases = self.0.lock().expect("no panic while it is held");
        match renewed {
            Ok(Ok(renewed)) => {
                for (job, fence) in held {
                    let Some(held) = leases.get_mut(&job).filter(|held| held.fence == fence) else {
                        continue;
                    };
                    if renewed.contains(&job) {
                        held.good_until = asked + lease;
                    } else {
                        held.lost.cancel();
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "Leases could not be renewed"),
            Err(_) => tracing::warn!("Leases could not be renewed: the database does not answer"),
        }
    }

    /// How long the first of them surely stands, where any is held.
    pub fn first_left(&self) -> Option<Duration> {
        let leases = self.0.lock().expect("no panic while it is held");
        let first = leases.values().map(|held| held.good_until).min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    /// How many are held.
    pub fn count(&self) -> usize {
        self.0.lock().expect("no panic while it is held").len()
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.lease.own(|held| {
            held.steps.remove(&self.number);
            held.stepped = Instant::now();
        });
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        let mut leases = self.leases.0.lock().expect("no panic while it is held");
        // This worker may have claimed the job again meanwhile.
        if leases
            .get(&self.job)
            .is_some_and(|held| held.fence == self.fence)
        {
            leases.remove(&self.job);
        }
    }
}

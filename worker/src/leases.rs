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
use common::job;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// Every lease this worker holds.
#[derive(Clone, Default)]
pub struct Leases(Arc<Mutex<HashMap<JobId, Held>>>);

struct Held {
    fence: i32,
    /// Until when the lease surely stands, counted from before it was asked for.
    good_until: Instant,
    /// When whoever works under it counts as hanging.
    hangs_at: Instant,
    lost: CancellationToken,
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

    /// The next step may take this long, and twice a lease for all that goes with it.
    pub fn may_take(&self, time: Duration) {
        let at = Instant::now() + time + self.lease * 2;
        self.own(|held| held.hangs_at = held.hangs_at.max(at));
    }

    /// Ends when the work hangs.
    pub async fn hangs(&self) {
        while let Some(at) = self.own(|held| held.hangs_at)
            && Instant::now() < at
        {
            tokio::time::sleep_until(at.into()).await;
        }
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
            hangs_at: asked + lease * 2,
            lost: lost.clone(),
        };
        self.0
            .lock()
            .expect("no panic while it is held")
            .insert(job, held);
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
        let renewal = async {
            reach("renew:before_renew").await?;
            job::store::renew(pool, &held, lease).await
        };
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

    /// How many are held.
    pub fn count(&self) -> usize {
        self.0.lock().expect("no panic while it is held").len()
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

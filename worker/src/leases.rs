//! The leases this worker holds: renewed together by one statement, and given up in time.
//!
//! A worker that cannot reach the database must stop before its lease runs out there, by its own monotonic
//! clock: what it would still do, another worker may be doing already.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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
    lost: CancellationToken,
}

/// A lease while it is worked under; dropping it forgets the lease.
pub struct HeldLease {
    job: JobId,
    fence: i32,
    leases: Leases,
    /// Cancelled when the lease is lost: stop at once, change nothing.
    pub lost: CancellationToken,
}

impl Leases {
    /// Remembers a lease that was asked for at `asked`.
    pub fn hold(&self, job: JobId, fence: i32, asked: Instant, lease: Duration) -> HeldLease {
        let lost = CancellationToken::new();
        let held = Held {
            fence,
            good_until: asked + lease,
            lost: lost.clone(),
        };
        self.0
            .lock()
            .expect("no panic while it is held")
            .insert(job, held);
        HeldLease {
            job,
            fence,
            leases: self.clone(),
            lost,
        }
    }

    /// Renews all of them. Those that are gone, or may be, are cancelled.
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
        // A renewal that hangs is a renewal that failed: the deadline below must still be looked at in time.
        let renewed = tokio::time::timeout(lease / 4, job::store::renew(pool, &held, lease)).await;
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
        // A sixth of a lease is what stopping may take.
        let soon = Instant::now() + lease / 6;
        for held in leases.values().filter(|held| held.good_until <= soon) {
            held.lost.cancel();
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

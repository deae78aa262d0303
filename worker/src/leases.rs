//! The leases this worker holds. One statement renews all of them.
//!
//! When the database is unreachable, a lease may run out there without this worker's knowledge. So
//! the worker measures each lease with its own monotonic clock, and begins no further call once the
//! lease may have run out. The worker still waits for the end of a running call, because the call
//! is paid for: the image is stored under the call's own key, and the worker that has the job by
//! then adopts it. The work is dropped only when the database says that this attempt no longer
//! holds the job: another attempt has the job, the job is queued again, or it has ended.
//!
//! An attempt that hangs must not renew its lease for ever. So each step declares how long it may
//! take, and an attempt is dropped some time after all of its steps should have ended. The lease then
//! runs out, as if the worker had died.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use common::failpoint::reach;
use domain::id::JobId;
use sqlx::PgPool;
use storage::database;
use tokio_util::sync::CancellationToken;

/// Every lease this worker holds. Clones share the same set.
#[derive(Clone, Default)]
pub struct Leases(Arc<Mutex<HashMap<JobId, LeaseState>>>);

struct LeaseState {
    /// The number of the attempt that holds the lease.
    fence: i32,
    /// Until when the lease is surely valid. The time is counted from before the claim or renewal
    /// was sent, so the lease never ends earlier in the database.
    valid_until: Instant,
    /// The deadline of each running step, by the step's number.
    steps: HashMap<u64, Instant>,
    /// When the last step ended; before that, when the lease was added. The next step must begin
    /// within two lease durations from then.
    last_step_ended: Instant,
    /// See [`HeldLease::lost`].
    lost: CancellationToken,
}

/// A running step of an attempt. Dropping it ends the step.
#[must_use]
pub struct Step<'a> {
    lease: &'a HeldLease,
    /// Random, to tell the steps of an attempt apart that run at the same time.
    number: u64,
}

/// The lease of one attempt. Dropping it stops the renewal.
pub struct HeldLease {
    job: JobId,
    fence: i32,
    /// How long the lease is valid after each renewal.
    duration: Duration,
    leases: Leases,
    /// Canceled when the lease is lost: another attempt has the job, the job is queued again, or it
    /// has ended. Stop at once and write nothing.
    pub lost: CancellationToken,
}

impl HeldLease {
    /// Whether the lease is surely valid for another sixth of its duration. Beginning a call may
    /// take as long as that.
    pub fn is_valid(&self) -> bool {
        let valid_until = self.with_state(|state| state.valid_until);
        valid_until.is_some_and(|until| Instant::now() + self.duration / 6 < until)
    }

    /// Begins a step that may take up to `max_duration`. Between two steps at most twice the lease
    /// duration may pass.
    pub fn begin_step(&self, max_duration: Duration) -> Step<'_> {
        let number = rand::random();
        // A sum that is out of range sets no limit.
        let deadline = Instant::now().checked_add(max_duration);
        self.with_state(|state| deadline.map(|deadline| state.steps.insert(number, deadline)));
        Step {
            lease: self,
            number,
        }
    }

    /// Waits until the attempt hangs: until twice the lease duration has passed since the latest
    /// deadline of its running steps, or, if no step is running, since the last step ended. Never
    /// returns while the attempt makes progress.
    pub async fn wait_until_hung(&self) {
        let hung_at = |state: &mut LeaseState| {
            let latest = state.steps.values().max().copied();
            latest.unwrap_or(state.last_step_ended) + self.duration * 2
        };
        while let Some(at) = self.with_state(hung_at) {
            if at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(at.into()).await;
        }
        // This worker has claimed the job again, and `lost` has been canceled.
        std::future::pending::<()>().await;
    }

    /// Reads or changes the state of this attempt. Returns `None` if this worker has claimed the
    /// job again meanwhile, because the state then belongs to the later attempt.
    fn with_state<T>(&self, access: impl FnOnce(&mut LeaseState) -> T) -> Option<T> {
        let mut leases = self.leases.lock();
        let state = leases.get_mut(&self.job);
        state.filter(|state| state.fence == self.fence).map(access)
    }
}

impl Leases {
    /// Adds a lease of duration `lease` whose claim was sent at `claim_started`. If this worker
    /// holds an older lease of the same job, the older lease becomes lost.
    ///
    /// # Panics
    ///
    /// Panics when another thread panicked while it changed the leases.
    pub fn add(
        &self,
        job: JobId,
        fence: i32,
        claim_started: Instant,
        lease: Duration,
    ) -> HeldLease {
        let lost = CancellationToken::new();
        let state = LeaseState {
            fence,
            valid_until: claim_started + lease,
            steps: HashMap::new(),
            last_step_ended: Instant::now(),
            lost: lost.clone(),
        };
        let older = self.lock().insert(job, state);
        if let Some(older) = older {
            older.lost.cancel();
        }
        HeldLease {
            job,
            fence,
            duration: lease,
            leases: self.clone(),
            lost,
        }
    }

    /// Renews all leases, so that each lasts for `lease` from now. If the database answers without
    /// renewing a lease, another attempt has the job, the job is queued again, or it has ended, and
    /// the lease becomes lost. If the statement fails or gets no answer, nothing changes.
    ///
    /// # Panics
    ///
    /// Panics when another thread panicked while it changed the leases.
    pub async fn renew(&self, pool: &PgPool, lease: Duration) {
        let held: Vec<(JobId, i32)> = {
            let leases = self.lock();
            leases
                .iter()
                .map(|(&job, state)| (job, state.fence))
                .collect()
        };
        if held.is_empty() {
            return;
        }
        let renewal_started = Instant::now();
        // A renewal that hangs counts as failed. Leases are renewed every third of a
        // lease, so after a quarter this one ends before the next begins.
        let renewal = database::with_timeout(async {
            reach("renew:before_renew").await?;
            storage::jobs::renew(pool, &held, lease).await
        });
        let renewed = tokio::time::timeout(lease / 4, renewal).await;
        let mut leases = self.lock();
        match renewed {
            Ok(Ok(renewed)) => {
                let renewed: HashSet<JobId> = renewed.into_iter().collect();
                for (job, fence) in held {
                    // While the database answered, the attempt may have ended, or this worker may
                    // have claimed the job again.
                    let Some(state) = leases.get_mut(&job).filter(|state| state.fence == fence)
                    else {
                        continue;
                    };
                    if renewed.contains(&job) {
                        state.valid_until = renewal_started + lease;
                    } else {
                        state.lost.cancel();
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "Leases could not be renewed"),
            Err(_) => tracing::warn!("Leases could not be renewed: the database does not answer"),
        }
    }

    /// How long the lease that ends first is still valid. Returns `None` while no lease is held.
    ///
    /// # Panics
    ///
    /// Panics when another thread panicked while it changed the leases.
    pub fn shortest_time_left(&self) -> Option<Duration> {
        let leases = self.lock();
        let first = leases.values().map(|state| state.valid_until).min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    /// How many leases are held.
    ///
    /// # Panics
    ///
    /// Panics when another thread panicked while it changed the leases.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, LeaseState>> {
        self.0.lock().expect("no panic while it is held")
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.lease.with_state(|state| {
            state.steps.remove(&self.number);
            state.last_step_ended = Instant::now();
        });
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        let mut leases = self.leases.lock();
        // This worker may have claimed the job again meanwhile. The lease of that claim stays.
        if leases
            .get(&self.job)
            .is_some_and(|state| state.fence == self.fence)
        {
            leases.remove(&self.job);
        }
    }
}

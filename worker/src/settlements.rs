//! Group commit: jobs of one tenant that end while one is being settled are settled together, in the next transaction.
//!
//! The settlements of a tenant run one after the other anyway, because each locks the tenant's
//! wallet. The first one begins a task that settles it. Those that arrive meanwhile wait in a queue.
//! When the task has committed, it takes all that wait, and ends when none waits. Each gets a result
//! of its own; [`settlement::deliver_all`] says what happens if one of them fails.
//!
//! A transaction for ten jobs costs Postgres little more than one for a single job. So if the tenant
//! runs many jobs in this worker, the task first waits a moment for more of them to end, as
//! `commit_delay` and `commit_siblings` of Postgres do. A call of a model takes seconds, so nobody
//! notices the moment.
//!
//! The task belongs to no attempt. If an attempt is dropped while its settlement waits, the job is
//! settled all the same: its files are stored, and the fence says whether it may.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::settlement::{self, Delivery, SettlementError, SettlementResult};
use domain::id::TenantId;
use sqlx::PgPool;
use telemetry::WORKER_SETTLEMENT_GROUP;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// How long the task waits for more jobs to end.
const GATHER_TIME: Duration = Duration::from_millis(80);
/// The task waits only if the tenant runs at least this many jobs in this worker. With fewer, hardly
/// one would end within [`GATHER_TIME`].
const MIN_SIBLINGS: usize = 8;

/// The waiting settlements of all tenants. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Settlements {
    /// A queue exists while a task settles jobs of its tenant.
    queues: Arc<Mutex<HashMap<TenantId, Queue>>>,
}

type Queue = Vec<(Delivery, oneshot::Sender<SettlementOutcome>)>;
type SettlementOutcome = Result<SettlementResult, SettlementError>;

impl Settlements {
    /// Ends a job, alone or together with other jobs of its tenant. `siblings` is how many jobs the
    /// tenant runs in this worker, and `tasks` are those that a stop waits for.
    ///
    /// # Errors
    /// Returns an error as [`settlement::deliver`] does.
    pub(crate) async fn deliver(
        &self,
        pool: &PgPool,
        tasks: &TaskTracker,
        siblings: usize,
        delivery: Delivery,
    ) -> SettlementOutcome {
        let tenant = delivery.lease.tenant;
        let (sender, receiver) = oneshot::channel();
        let has_task = {
            let mut queues = self.queues();
            let has_task = queues.contains_key(&tenant);
            queues.entry(tenant).or_default().push((delivery, sender));
            has_task
        };
        if !has_task {
            let task = Task {
                settlements: self.clone(),
                tenant,
                ended: false,
            };
            let gather_time = match siblings {
                MIN_SIBLINGS.. => GATHER_TIME,
                _ => Duration::ZERO,
            };
            tasks.spawn(task.run(pool.clone(), gather_time));
        }
        // Without a result the task has panicked, and it is not known what Postgres did.
        receiver.await.unwrap_or_else(|_| {
            let error = io::Error::other("the task that settles jobs ended without a result");
            Err(SettlementError::Database(error.into()))
        })
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<TenantId, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that settles the jobs of a tenant.
struct Task {
    settlements: Settlements,
    tenant: TenantId,
    /// Whether this task has removed its queue. A queue that the tenant has later belongs to another
    /// task.
    ended: bool,
}

impl Drop for Task {
    fn drop(&mut self) {
        // The task has panicked. Those that wait get no result and try again.
        if !self.ended {
            self.settlements.queues().remove(&self.tenant);
        }
    }
}

impl Task {
    /// Settles the jobs in the queue, group by group, until none waits. Waits for `gather_time`
    /// before each group.
    async fn run(mut self, pool: PgPool, gather_time: Duration) {
        loop {
            if !gather_time.is_zero() {
                tokio::time::sleep(gather_time).await;
            }
            let Some(group) = self.take() else {
                return;
            };
            WORKER_SETTLEMENT_GROUP.observe(u32::try_from(group.len()).map_or(f64::MAX, f64::from));
            let (deliveries, senders): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            let results = settlement::deliver_all(&pool, self.tenant, &deliveries).await;
            for (sender, result) in senders.into_iter().zip(results) {
                // If the attempt was dropped, nobody wants the result.
                let _ = sender.send(result);
            }
        }
    }

    /// Takes all that wait. Returns `None`, and removes the queue, if none waits.
    fn take(&mut self) -> Option<Queue> {
        let mut queues = self.settlements.queues();
        let queue = queues.get_mut(&self.tenant)?;
        if queue.is_empty() {
            queues.remove(&self.tenant);
            self.ended = true;
            return None;
        }
        Some(std::mem::take(queue))
    }
}

//! Jobs of one tenant that end while one is being settled are settled together, in the next transaction.
//!
//! This is group commit ([`common::groups`]). Each job gets a result of its own;
//! [`settlement::deliver_all`] says what happens if one of them fails.
//!
//! A transaction for ten jobs costs Postgres little more than one for a single job. So if the tenant
//! runs many jobs in this worker, the task first waits a moment for more of them to end, as
//! `commit_delay` and `commit_siblings` of Postgres do. A call of a model takes seconds, so nobody
//! notices the moment.
//!
//! The task belongs to no attempt. If an attempt is dropped while its settlement waits, the job is
//! settled all the same: its files are stored, and the fence says whether it may.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use common::groups::{Groups, Turn};
use common::settlement::{self, Delivery, SettlementError, SettlementResult};
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
    groups: Groups<Waiting>,
}

/// A settlement that waits, and where the task sends its result.
type Waiting = (Delivery, oneshot::Sender<SettlementOutcome>);
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
        let Ok(turn) = (self.groups).join(tenant, |_| Ok::<_, Infallible>((delivery, sender)));
        if let Some(turn) = turn {
            let gather_time = match siblings {
                MIN_SIBLINGS.. => GATHER_TIME,
                _ => Duration::ZERO,
            };
            tasks.spawn(settle_groups(turn, pool.clone(), gather_time));
        }
        // Without a result the task has panicked, and it is not known what Postgres did.
        receiver.await.unwrap_or_else(|_| {
            let error = io::Error::other("the task that settles jobs ended without a result");
            Err(SettlementError::Database(error.into()))
        })
    }
}

/// Settles the jobs in the queue of a tenant, group by group, until none waits. Waits for
/// `gather_time` before each group.
async fn settle_groups(mut turn: Turn<Waiting>, pool: PgPool, gather_time: Duration) {
    loop {
        if !gather_time.is_zero() {
            tokio::time::sleep(gather_time).await;
        }
        // A settlement whose attempt was dropped is wanted all the same.
        let Some(group) = turn.take(usize::MAX, |_| true) else {
            return;
        };
        WORKER_SETTLEMENT_GROUP.observe(u32::try_from(group.len()).map_or(f64::MAX, f64::from));
        let (deliveries, senders): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let results = settlement::deliver_all(&pool, turn.tenant(), &deliveries).await;
        for (sender, result) in senders.into_iter().zip(results) {
            // If the attempt was dropped, nobody wants the result.
            let _ = sender.send(result);
        }
    }
}

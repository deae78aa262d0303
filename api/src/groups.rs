//! Group commit: submits of one tenant that arrive while one is being admitted are admitted together, in the next transaction.
//!
//! The submits of a tenant run one after the other anyway, because each locks the tenant's wallet. So a second one cannot be faster
//! than the first, but a hundred can be as fast as one. The first submit begins a task that admits it at once. Submits that arrive
//! meanwhile wait in a queue. When the task has committed, it takes all that wait, up to [`MAX_MEMBERS`], and ends when none waits.
//! Each submit gets a result of its own; [`common::admission::admit_all`] says what happens if one of them fails.
//!
//! The task belongs to no request. A client that goes away while it waits is taken out of the queue. One that goes away later
//! changes nothing: its job is admitted, and it gets the answer when it repeats the request.
//!
//! A queue is for one process. Between processes the lock of the wallet decides, as it does between a submit and a settlement.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::admission::{self, Admission, AdmissionError, Admitted, Member};
use domain::id::TenantId;
use domain::idempotency::Answer;
use domain::job::Job;
use sqlx::PgPool;
use telemetry::API_SUBMIT_GROUP;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::error::Problem;
use crate::shares::{Pool, Queued, Shares};

/// The most submits that one transaction admits.
const MAX_MEMBERS: usize = 100;
/// The longest that a submit waits until its transaction begins.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The time between two attempts to get a connection, while too many requests of the tenant wait.
const PAUSE: Duration = Duration::from_millis(20);

/// Makes the answer to a submit from its job.
pub type AnswerFn = fn(&Job) -> Answer;

/// The submits of all tenants that wait. Clones share them.
#[derive(Clone, Default)]
pub struct Groups {
    queues: Arc<Mutex<HashMap<TenantId, Queue>>>,
}

/// The submits of a tenant that wait. A queue exists while a task works for its tenant.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Submit>,
    /// The number of the next submit.
    next: u64,
}

/// A submit that waits.
struct Submit {
    number: u64,
    admission: Admission<'static>,
    answer: AnswerFn,
    result: oneshot::Sender<Result<Admitted, AdmissionError>>,
    /// Counts it towards the queue of its tenant; `None` for the one that began the task.
    _queued: Option<Queued>,
}

/// Why a submit was not admitted.
#[derive(Debug)]
pub enum SubmitError {
    /// It waited too long, or too many of its tenant's requests wait already. Nothing was written.
    Overloaded(Problem),
    /// A check or Postgres refused it.
    Refused(AdmissionError),
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Overloaded(problem) => problem,
            SubmitError::Refused(error) => error.into(),
        }
    }
}

/// What the task of a tenant needs.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Connections as `platen_api`.
    pub pool: &'a PgPool,
    /// What each tenant may use at once.
    pub shares: &'a Shares,
    /// Tasks that a stop waits for.
    pub tasks: &'a TaskTracker,
}

impl Groups {
    /// Admits a submit, alone or together with others of its tenant.
    ///
    /// # Errors
    /// Returns a [`SubmitError`] if it was not admitted. After an error of the database the job may exist all the same.
    pub async fn admit(
        &self,
        context: Context<'_>,
        admission: Admission<'static>,
        answer: AnswerFn,
    ) -> Result<Admitted, SubmitError> {
        let tenant = admission.tenant;
        let (sender, mut result) = oneshot::channel();
        let number = {
            let mut queues = self.queues();
            let busy = queues.contains_key(&tenant);
            let queued = busy.then(|| context.shares.for_tenant(tenant).enter(Pool::Wallet));
            let queued = queued.transpose().map_err(SubmitError::Overloaded)?;
            let queue = queues.entry(tenant).or_default();
            let number = queue.next;
            queue.next += 1;
            queue.waiting.push_back(Submit {
                number,
                admission,
                answer,
                result: sender,
                _queued: queued,
            });
            if !busy {
                let task = Task {
                    groups: self.clone(),
                    tenant,
                    ended: false,
                };
                let (pool, shares) = (context.pool.clone(), context.shares.clone());
                context.tasks.spawn(task.run(pool, shares));
            }
            number
        };
        let result = match timeout(MAX_WAIT, &mut result).await {
            Ok(result) => result,
            Err(_) if self.withdraw(tenant, number) => {
                return Err(SubmitError::Overloaded(Pool::Wallet.overloaded()));
            }
            // Its transaction has begun, and ends soon in one way or the other.
            Err(_) => result.await,
        };
        // Without a result the task has panicked, and it is not known what Postgres did.
        let result = result.unwrap_or_else(|_| {
            let error = io::Error::other("the task that admits submits ended without a result");
            Err(AdmissionError::Database(error.into()))
        });
        result.map_err(SubmitError::Refused)
    }

    /// Removes a submit from its queue. Returns `false` if it is not there any more.
    fn withdraw(&self, tenant: TenantId, number: u64) -> bool {
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(&tenant) else {
            return false;
        };
        let at = queue
            .waiting
            .iter()
            .position(|submit| submit.number == number);
        at.and_then(|at| queue.waiting.remove(at)).is_some()
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<TenantId, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that admits the submits of a tenant.
struct Task {
    groups: Groups,
    tenant: TenantId,
    /// Whether the queue is gone. A newer one may belong to another task.
    ended: bool,
}

impl Drop for Task {
    fn drop(&mut self) {
        // After a panic. The submits that wait get no result, and the next one begins another task.
        if !self.ended {
            self.groups.queues().remove(&self.tenant);
        }
    }
}

impl Task {
    async fn run(mut self, pool: PgPool, shares: Shares) {
        let share = shares.for_tenant(self.tenant);
        loop {
            // Others of the tenant may hold the permits: cancellations and uploads. Submits join the queue meanwhile. Those that
            // wait too long leave it by themselves.
            let connection = share.wallet(&pool).await;
            let Some(group) = self.take(connection.is_ok()) else {
                return;
            };
            let Ok(connection) = connection else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            API_SUBMIT_GROUP.observe(u32::try_from(group.len()).map_or(f64::MAX, f64::from));
            let members: Vec<Member<'_>> = group
                .iter()
                .map(|submit| Member {
                    admission: &submit.admission,
                    answer: &submit.answer,
                })
                .collect();
            let results = admission::admit_all(&connection, self.tenant, &members).await;
            drop(connection);
            for (submit, result) in group.into_iter().zip(results) {
                // If the client is gone, nobody wants the result.
                let _ = submit.result.send(result);
            }
        }
    }

    /// Takes the submits that wait, without those whose client is gone; none if there is no connection for them. Returns `None`,
    /// and ends the queue, if no submit waits.
    fn take(&mut self, has_connection: bool) -> Option<Vec<Submit>> {
        let mut queues = self.groups.queues();
        let queue = queues.get_mut(&self.tenant)?;
        queue.waiting.retain(|submit| !submit.result.is_closed());
        if queue.waiting.is_empty() {
            queues.remove(&self.tenant);
            self.ended = true;
            return None;
        }
        let count = if has_connection { MAX_MEMBERS } else { 0 };
        let count = count.min(queue.waiting.len());
        Some(queue.waiting.drain(..count).collect())
    }
}

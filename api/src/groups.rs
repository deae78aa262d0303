//! Group commit: submits of one tenant that arrive while one is being admitted are admitted together, in the next transaction.
//!
//! The submits of a tenant run one after the other anyway, because each locks the tenant's wallet. So a second one cannot be faster
//! than the first, but a hundred can be as fast as one. The first submit begins a task that admits it at once. Submits that arrive
//! meanwhile wait in a queue. When the task has committed, it takes all that wait, up to [`MAX_MEMBERS`], and ends when none waits.
//! Each submit gets a result of its own; [`common::admission::admit_all`] says what happens if one of them fails.
//!
//! The task belongs to no request. If a client goes away while its submit waits, the submit is taken out of the queue. If it goes
//! away later, the job is admitted all the same, and the client gets the answer when it repeats the request.
//!
//! A queue is for one process. Between processes the lock of the wallet decides, as it does between a submit and a settlement.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::admission::{self, Admission, AdmissionError, AdmissionRequest, Admitted};
use domain::id::TenantId;
use domain::idempotency::Answer;
use domain::job::Job;
use sqlx::PgPool;
use telemetry::API_SUBMIT_GROUP;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::error::Problem;
use crate::shares::{Queued, Resource, Shares};

/// The most submits that one transaction admits.
const MAX_MEMBERS: usize = 100;
/// The longest that a submit waits until its transaction begins.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The time between two attempts to get a connection, while other requests of the tenant use all its permits.
const PAUSE: Duration = Duration::from_millis(20);

/// Makes the answer to a submit from its job.
pub type AnswerFn = fn(&Job) -> Answer;

/// The waiting submits of all tenants. Clones share them.
#[derive(Clone, Default)]
pub struct Groups {
    queues: Arc<Mutex<HashMap<TenantId, Queue>>>,
}

/// The waiting submits of one tenant. A queue exists while a task admits submits of its tenant.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Submit>,
    /// The number of the next submit.
    next_number: u64,
}

/// A submit that waits.
struct Submit {
    /// The number of the submit in its queue.
    number: u64,
    admission: Admission<'static>,
    answer: AnswerFn,
    /// Where the task sends the result. It is closed if the client is gone.
    result: oneshot::Sender<Result<Admitted, AdmissionError>>,
    /// Counts the submit as waiting. `None` for the submit that began the task, because the task itself waits for the permits.
    _queued: Option<Queued>,
}

/// Why a submit was not admitted.
#[derive(Debug)]
pub enum SubmitError {
    /// The submit waited too long, or too many of its tenant's requests wait already. Nothing was written.
    Overloaded(Problem),
    /// A check or Postgres refused the submit.
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

/// What a task that admits submits needs.
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
    /// Admits a submit, alone or together with other submits of its tenant. `answer` makes the answer from the new job.
    ///
    /// # Errors
    /// Returns a [`SubmitError`] if the submit was not admitted. After an error of the database the job may exist all the same.
    pub async fn admit(
        &self,
        context: Context<'_>,
        admission: Admission<'static>,
        answer: AnswerFn,
    ) -> Result<Admitted, SubmitError> {
        let tenant = admission.tenant;
        let (sender, mut receiver) = oneshot::channel();
        let number = {
            let mut queues = self.queues();
            let has_task = queues.contains_key(&tenant);
            let queued = has_task.then(|| {
                context
                    .shares
                    .for_tenant(tenant)
                    .enter_queue(Resource::Wallet)
            });
            let queued = queued.transpose().map_err(SubmitError::Overloaded)?;
            let queue = queues.entry(tenant).or_default();
            let number = queue.next_number;
            queue.next_number += 1;
            queue.waiting.push_back(Submit {
                number,
                admission,
                answer,
                result: sender,
                _queued: queued,
            });
            if !has_task {
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
        let result = match timeout(MAX_WAIT, &mut receiver).await {
            Ok(result) => result,
            Err(_) if self.withdraw(tenant, number) => {
                return Err(SubmitError::Overloaded(Resource::Wallet.overloaded()));
            }
            // The submit is in a transaction that has begun, and that ends soon in one way or the other.
            Err(_) => receiver.await,
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
    /// Whether this task has removed its queue. A queue that the tenant has later belongs to another task.
    ended: bool,
}

impl Drop for Task {
    fn drop(&mut self) {
        // The task has panicked. The submits that wait get no result, and the next submit begins another task.
        if !self.ended {
            self.groups.queues().remove(&self.tenant);
        }
    }
}

impl Task {
    /// Admits the submits in the queue, group by group, until none waits.
    async fn run(mut self, pool: PgPool, shares: Shares) {
        let share = shares.for_tenant(self.tenant);
        loop {
            // Other requests of the tenant, such as cancellations and uploads, may hold the permits. Submits join the queue
            // meanwhile. A submit that waits too long leaves the queue by itself.
            let connection = share.wallet(&pool).await;
            let Some(group) = self.take(connection.is_ok()) else {
                return;
            };
            let Ok(connection) = connection else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            API_SUBMIT_GROUP.observe(u32::try_from(group.len()).map_or(f64::MAX, f64::from));
            let requests: Vec<AdmissionRequest<'_>> = group
                .iter()
                .map(|submit| AdmissionRequest {
                    admission: &submit.admission,
                    answer: &submit.answer,
                })
                .collect();
            let results = admission::admit_all(&connection, self.tenant, &requests).await;
            drop(connection);
            for (submit, result) in group.into_iter().zip(results) {
                // If the client is gone, nobody wants the result.
                let _ = submit.result.send(result);
            }
        }
    }

    /// Takes up to [`MAX_MEMBERS`] submits out of the queue; without a connection for them, takes none and returns an empty list.
    /// Drops the submits whose client is gone. Returns `None`, and removes the queue, if no submit waits.
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

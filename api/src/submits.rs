//! Submits of one tenant that arrive while one is being admitted are admitted together, in the next transaction.
//!
//! This is group commit ([`common::groups`]): the first submit begins a task that admits it at once, and later ones wait in the queue
//! of their tenant. Each submit gets a result of its own; [`common::admission::admit_all`] says what happens if one of them fails.
//!
//! The task belongs to no request. If a client goes away while its submit waits, the submit is taken out of the queue. If it goes
//! away later, the job is admitted all the same, and the client gets the answer when it repeats the request.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::admission::{self, Admission, AdmissionError, AdmissionRequest, Admitted};
use common::groups::{Groups, Turn};
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
pub struct Submits {
    groups: Groups<Submit>,
    /// The number of the next submit.
    next_number: Arc<AtomicU64>,
}

/// A submit that waits.
struct Submit {
    /// No other submit of this process has the number.
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

impl Submits {
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
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let turn = self.groups.join(tenant, |has_task| {
            let share = context.shares.for_tenant(tenant);
            let queued = has_task.then(|| share.enter_queue(Resource::Wallet));
            Ok(Submit {
                number,
                admission,
                answer,
                result: sender,
                _queued: queued.transpose()?,
            })
        });
        if let Some(turn) = turn.map_err(SubmitError::Overloaded)? {
            let (pool, shares) = (context.pool.clone(), context.shares.clone());
            context.tasks.spawn(admit_groups(turn, pool, shares));
        }
        let result = match timeout(MAX_WAIT, &mut receiver).await {
            Ok(result) => result,
            Err(_)
                if self
                    .groups
                    .withdraw(tenant, |submit| submit.number == number) =>
            {
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
}

/// Admits the submits in the queue of a tenant, group by group, until none waits.
async fn admit_groups(mut turn: Turn<Submit>, pool: PgPool, shares: Shares) {
    let tenant = turn.tenant();
    let share = shares.for_tenant(tenant);
    loop {
        // Other requests of the tenant, such as cancellations and uploads, may hold the permits. Submits join the queue
        // meanwhile. A submit that waits too long leaves the queue by itself.
        let connection = share.wallet(&pool).await;
        let max = if connection.is_ok() { MAX_MEMBERS } else { 0 };
        // A submit whose client is gone is dropped.
        let Some(group) = turn.take(max, |submit| !submit.result.is_closed()) else {
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
        let results = admission::admit_all(&connection, tenant, &requests).await;
        drop(connection);
        for (submit, result) in group.into_iter().zip(results) {
            // If the client is gone, nobody wants the result.
            let _ = submit.result.send(result);
        }
    }
}

//! Admission: the one transaction that creates jobs.
//!
//! The transaction writes the jobs, the holds, the lines of the ledger and the answers to the
//! clients together, or nothing at all. It locks the tenant's wallet first. So the transactions of
//! one tenant run one after the other. Two of them cannot spend the same credit, and a repeated
//! request waits for the first request and returns its answer. After the commit the caller pushes
//! the jobs to the ready queue; read [`crate::dispatch`] next.
//!
//! A transaction takes four round trips to Postgres, for one job or for a hundred: it begins and
//! locks the wallet, it reads what decides ([`storage::admissions::read`]), it writes what was
//! decided ([`storage::admissions::write`]), and it commits. What is decided is pure
//! (`admission/plan.rs`): it is as if the requests came one after the other.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::wildcard_enum_match_arm
)]

mod plan;

use std::time::Duration;

use serde_json::json;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use crate::config::UnbilledLimits;
use crate::failpoint::reach;
use crate::sets::run_in_sets;
use domain::allowance::AllowanceUsage;
use domain::credits::{Credits, InvalidCredits, Quote};
use domain::generation::Generation;
use domain::id::{JobId, TenantId};
use domain::idempotency::{self, Answer, KeyUse};
use domain::job::{Job, JobAttributes};
use domain::operator::Actor;
use domain::storage_limit::StorageUsage;
use domain::traceparent::TraceParent;
use plan::{Decision, Plan};
use storage::database;

/// Most requests of [`admit_all`] that share a transaction. Other requests of the tenant wait for
/// the wallet's lock meanwhile, for about a fifth of a second.
const MAX_SET_SIZE: usize = 500;

/// A parsed and quoted request to create a job.
#[derive(Debug)]
pub struct Admission<'a> {
    /// The tenant that pays for the job.
    pub tenant: TenantId,
    /// The idempotency key of the request, and the hash of the request.
    pub idempotency: idempotency::Request,
    /// The id that the new job gets.
    pub job: JobId,
    /// What the submitter chose about the job.
    pub attributes: JobAttributes,
    /// The HTTP request that submits the job.
    pub request_id: String,
    /// The client's trace that the job belongs to (W3C `traceparent`).
    pub traceparent: Option<TraceParent>,
    /// What to generate.
    pub generation: Generation,
    /// The price, which is fixed for the job.
    pub quote: Quote,
    /// Earliest start. `None`: now.
    pub run_at: Option<OffsetDateTime>,
    /// Time from the earliest start to the deadline.
    pub cancel_after: Duration,
    /// Longest time that one call of the model may take. A job whose `cancel_after` is shorter can
    /// abandon a call that has begun.
    pub model_timeout: Duration,
    /// The failed job that this one repeats, if an operator ordered that.
    pub redrive: Option<Redrive<'a>>,
    /// Limits on what a tenant may use without paying for it.
    pub unbilled_limits: UnbilledLimits,
}

/// An operator's order to run a failed job again. The audit entry is written together with the new
/// job.
#[derive(Clone, Copy, Debug)]
pub struct Redrive<'a> {
    /// The failed job.
    pub of: JobId,
    /// The operator who ordered it.
    pub actor: Actor<'a>,
}

/// Result of a successful request.
#[derive(Debug)]
pub enum Admitted {
    /// A new job was created. The caller pushes it to the ready queue.
    New {
        /// The new job.
        job: Box<Job>,
        /// The answer to the client.
        answer: Answer,
    },
    /// The idempotency key was used before, for the same request. This is the answer that request
    /// got.
    Repeated(Answer),
}

/// Why a request was not admitted. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The wallet has less than the hold.
    #[error("this needs {needed}, and {available} are available")]
    InsufficientCredits {
        /// The price of all requested outputs.
        needed: Credits,
        /// What the wallet has.
        available: Credits,
    },
    /// The tenant has no wallet, its wallet is not active, or it is in debt.
    #[error("this tenant may not submit jobs at present")]
    Inactive,
    /// The idempotency key belongs to another request.
    #[error("this idempotency key was used for another request")]
    KeyReused,
    /// An input names an upload that was deleted.
    #[error("an upload that the request names was deleted")]
    UploadGone,
    /// The deadline is shorter than a call may take, and the tenant has used up its cancel
    /// allowance.
    #[error("this tenant has abandoned {} calls in the last hour, which is its limit", .used.calls)]
    AllowanceUsed {
        /// What the tenant has used, and when it may try again.
        used: AllowanceUsage,
        /// Shortest `Cancel-After` that is admitted meanwhile.
        shortest_deadline: Duration,
    },
    /// The request's files would exceed the tenant's storage limit. All numbers are bytes.
    #[error("{more} more bytes do not fit: {stored} of {limit} are in use")]
    StorageFull {
        /// Size of the new files.
        more: i64,
        /// Size of the stored files.
        stored: i64,
        /// The storage limit.
        limit: i64,
    },
    /// The failed job was already run again.
    #[error("the job was already run again, as job {0}")]
    Redriven(JobId),
    /// The price is above the largest amount that one hold may have.
    #[error(transparent)]
    Amount(#[from] InvalidCredits),
    /// Postgres failed. If the connection broke during the commit, the job may exist all the same:
    /// a client that repeats its request with the same key gets the answer.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl database::PostgresError for AdmissionError {
    fn postgres(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::InsufficientCredits { .. }
            | Self::Inactive
            | Self::KeyReused
            | Self::UploadGone
            | Self::AllowanceUsed { .. }
            | Self::StorageFull { .. }
            | Self::Redriven(_)
            | Self::Amount(_) => None,
        }
    }
}

/// A request for [`admit_all`], and how it is answered.
#[derive(Clone, Copy)]
pub struct AdmissionRequest<'a> {
    /// The request.
    pub admission: &'a Admission<'a>,
    /// Makes the answer to the client from the new job. The answer is stored under the idempotency
    /// key, and a repeated request gets it again. If the job was not written, this may be called
    /// again.
    pub answer: &'a (dyn Fn(&Job) -> Answer + Send + Sync),
}

/// Creates a job: checks every limit, holds the credits, and writes the job and the answer.
///
/// `answer` makes the answer to the client, as in [`AdmissionRequest`].
///
/// # Errors
/// Returns an [`AdmissionError`] if a check fails; nothing is written in that case.
pub async fn admit(
    pool: &PgPool,
    admission: &Admission<'_>,
    answer: impl Fn(&Job) -> Answer + Send + Sync,
) -> Result<Admitted, AdmissionError> {
    let answer = &answer;
    let request = AdmissionRequest { admission, answer };
    let mut results = admit_all(pool, admission.tenant, &[request]).await;
    results.pop().expect("one result for each request")
}

/// Admits requests of one tenant as if they came one after the other, and returns a result for
/// each, in their order. `tenant` is the tenant of all of them.
///
/// Up to 500 requests share a transaction ([`run_in_sets`]): their jobs are created together or not
/// at all. If a request of such a set fails a check, the others are admitted without it. A caller
/// that repeats all requests with the same keys gets the answers to those that were admitted.
pub async fn admit_all(
    pool: &PgPool,
    tenant: TenantId,
    requests: &[AdmissionRequest<'_>],
) -> Vec<Result<Admitted, AdmissionError>> {
    let run = |set| Box::pin(admit_set(pool, tenant, set)) as _;
    run_in_sets(requests, MAX_SET_SIZE, run).await
}

/// Admits a set of requests in one transaction. Returns a result for each, in their order.
async fn admit_set(
    pool: &PgPool,
    tenant: TenantId,
    set: &[AdmissionRequest<'_>],
) -> Result<Vec<Result<Admitted, AdmissionError>>, AdmissionError> {
    // The wallet is locked before anything is read. All checks depend on what is read, and no other
    // transaction of this tenant can change that until this one ends.
    let mut transaction = database::begin_with_wallet(pool, tenant).await?;
    let wanted = plan::wanted(set);
    let Some(basis) = storage::admissions::read(&mut transaction, tenant, &wanted).await? else {
        return Ok(set.iter().map(|_| Err(AdmissionError::Inactive)).collect());
    };
    let mut plan = Plan::new(basis);
    let mut decisions = Vec::with_capacity(set.len());
    for request in set {
        let redriven = match &request.admission.redrive {
            Some(redrive) => storage::operators::redriven(&mut transaction, redrive.of).await?,
            None => None,
        };
        decisions.push(plan.decide(request, redriven));
    }
    if !plan.new.is_empty() {
        // The answers are stored in the same transaction. If the process dies after the commit and
        // before it replies, a client repeats its request and gets this answer, not a second job.
        storage::admissions::write(&mut transaction, tenant, plan.virtual_clock, &plan.new).await?;
        for (request, decision) in set.iter().zip(&decisions) {
            if let (Some(redrive), Ok(Decision::New(_))) = (&request.admission.redrive, decision) {
                let new = request.admission.job;
                let subject = json!({ "job": redrive.of, "new": new, "tenant": tenant });
                let actor = redrive.actor;
                storage::operators::record(&mut transaction, actor, "redrive", &subject).await?;
            }
        }
        reach("admission:before_commit").await?;
        transaction.commit().await?;
        reach("admission:after_commit").await?;
    }
    // Each new job is moved out to the result of its request.
    let mut new: Vec<_> = plan.new.into_iter().map(Some).collect();
    let mut result = |decision| match decision {
        Decision::Repeated(answer) => Admitted::Repeated(answer),
        Decision::New(index) => {
            let new = new.get_mut(index).and_then(Option::take);
            let new = new.expect("each new job is decided about once");
            Admitted::New {
                job: Box::new(new.job),
                answer: new.answer,
            }
        }
    };
    Ok(decisions
        .into_iter()
        .map(|decision| decision.map(&mut result))
        .collect())
}

/// Checks that `more` bytes fit into the tenant's storage limit. The caller must hold the wallet's
/// lock; without it, two requests could use the same free bytes.
///
/// # Errors
/// Returns [`AdmissionError::StorageFull`] if they do not fit, and [`AdmissionError::Database`] if
/// Postgres fails.
pub async fn check_storage_limit(
    connection: &mut PgConnection,
    tenant: TenantId,
    more: i64,
    unbilled_limits: &UnbilledLimits,
) -> Result<(), AdmissionError> {
    if more <= 0 || unbilled_limits.storage.is_none() {
        return Ok(());
    }
    let stored = storage::stored_bytes::stored(connection, tenant).await?;
    check_room(stored, more, unbilled_limits)
}

/// Checks that `more` bytes fit into the storage limit, together with those that are stored.
fn check_room(
    stored: StorageUsage,
    more: i64,
    unbilled_limits: &UnbilledLimits,
) -> Result<(), AdmissionError> {
    let Some(limit) = unbilled_limits.storage.filter(|_| more > 0) else {
        return Ok(());
    };
    match stored {
        StorageUsage { bytes: Some(bytes) } if !stored.has_room(more, Some(limit)) => {
            Err(AdmissionError::StorageFull {
                more,
                stored: bytes,
                limit,
            })
        }
        _ => Ok(()),
    }
}

/// Returns the answer that this request got before, if it is a repetition.
///
/// This function takes no lock, so `None` is no proof that the request is new; [`admit_all`] looks
/// again under the lock. It is for a request whose inputs would have to be stored again, and for a
/// request that fails a check now and may have passed it when it was made first.
///
/// # Errors
/// Returns [`AdmissionError::KeyReused`] if the key belongs to another request, and
/// [`AdmissionError::Database`] if Postgres fails.
pub async fn answered_before(
    pool: &PgPool,
    tenant: TenantId,
    request: &idempotency::Request,
) -> Result<Option<Answer>, AdmissionError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    find_answer(&mut transaction, tenant, request).await
}

/// Does the same as [`answered_before`], in a transaction of the caller. `None` is final only while
/// the caller holds the wallet's lock.
///
/// # Errors
/// Returns [`AdmissionError::KeyReused`] if the key belongs to another request, and
/// [`AdmissionError::Database`] if Postgres fails.
pub(crate) async fn find_answer(
    connection: &mut PgConnection,
    tenant: TenantId,
    request: &idempotency::Request,
) -> Result<Option<Answer>, AdmissionError> {
    match storage::idempotency::find(connection, tenant, request).await? {
        Some(KeyUse::Answered(answer)) => Ok(Some(answer)),
        Some(KeyUse::AnotherRequest) => Err(AdmissionError::KeyReused),
        None => Ok(None),
    }
}

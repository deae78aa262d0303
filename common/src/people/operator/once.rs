//! Idempotent requests of operators. They work as the requests of tenants do
//! ([`domain::idempotency`]), but belong to no tenant.
//!
//! The key is written first, in the transaction that does the work. A second request with the same
//! key waits until that transaction ends. Then it finds the answer. If the transaction was rolled
//! back, it finds nothing and does the work itself.
//!
//! An action on many jobs takes many transactions. First the jobs are chosen and recorded, then
//! each job is handled once under a key made from the request's key, and the answer is recorded
//! last. If such a request broke off and is repeated, it goes on with the same jobs.

use sqlx::PgPool;

use super::OperatorError;
use domain::id::{JobId, TenantId};
use domain::idempotency::{self, Answer, Request};
use domain::operator::Actor;
use storage::operators::OperatorKeyUse;
use storage::{database, operators};

/// A request of an operator.
#[derive(Clone, Copy, Debug)]
pub struct OperatorRequest<'a> {
    /// The operator, and the reason.
    pub actor: Actor<'a>,
    /// Key and hash of the request. They identify a repetition.
    pub request: &'a Request,
}

impl OperatorRequest<'_> {
    /// Makes the request for one of many jobs. It is stored among the requests of the job's tenant.
    /// Its key contains spaces, so no tenant can send the same key.
    pub(super) fn for_job(&self, action: &str, job: JobId) -> Request {
        let hash = idempotency::request_hash(action, &self.request.key, b"");
        Request {
            key: format!("operator {action} {job} {}", hex::encode(&hash[..16])),
            hash: idempotency::request_hash(action, &job.to_string(), b""),
        }
    }
}

/// The answer to a request of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorReply {
    /// The action was done now.
    New(Answer),
    /// The action was done before under this key. This is the answer that request got.
    Repeated(Answer),
}

/// How a request begins.
pub(super) enum BeginResult {
    /// The request is new. Its action belongs into this transaction.
    New(database::Transaction),
    /// The request was answered before.
    Answered(Answer),
}

/// How a request for many jobs begins.
#[derive(Debug)]
pub enum BulkStart {
    /// The request is new. [`choose`] records its jobs.
    New(BulkTransaction),
    /// The request was made before and has no answer yet. It goes on with the same jobs.
    Chosen {
        /// The jobs, in the order in which they are worked on.
        jobs: Vec<JobId>,
        /// Whether more jobs matched than one request handles.
        has_more: bool,
    },
    /// The request was answered before.
    Answered(Answer),
}

/// The transaction in which the jobs of a request are chosen.
#[derive(Debug)]
pub struct BulkTransaction(database::Transaction);

/// Begins the transaction of a request for one action. With `tenant`, the transaction sees the rows
/// of this tenant.
///
/// # Errors
/// Returns an error if the key was used for another request, or if Postgres fails.
pub(super) async fn begin(
    pool: &PgPool,
    tenant: Option<TenantId>,
    request: &Request,
) -> Result<BeginResult, OperatorError> {
    let mut transaction = match tenant {
        Some(tenant) => database::begin_for(pool, tenant).await?,
        None => database::begin(pool).await?,
    };
    if operators::claim_key(&mut transaction, request).await? {
        return Ok(BeginResult::New(transaction));
    }
    match operators::key_use(&mut transaction, request).await? {
        OperatorKeyUse::Answered(answer) => Ok(BeginResult::Answered(answer)),
        // Only requests for many jobs choose jobs, and they do not begin here.
        OperatorKeyUse::AnotherRequest | OperatorKeyUse::Chosen { .. } => {
            Err(OperatorError::KeyReused)
        }
    }
}

/// Records the answer, and commits it together with the action.
pub(super) async fn keep(
    mut transaction: database::Transaction,
    request: &Request,
    answer: Answer,
) -> Result<OperatorReply, OperatorError> {
    // No answer was recorded before, because this transaction has inserted the key.
    operators::keep_answer(&mut transaction, request, &answer).await?;
    transaction.commit().await?;
    Ok(OperatorReply::New(answer))
}

/// Begins a request for many jobs.
///
/// # Errors
/// Returns an error if the key was used for another request, or if Postgres fails.
pub async fn begin_many(pool: &PgPool, request: &Request) -> Result<BulkStart, OperatorError> {
    let mut transaction = database::begin(pool).await?;
    if operators::claim_key(&mut transaction, request).await? {
        return Ok(BulkStart::New(BulkTransaction(transaction)));
    }
    match operators::key_use(&mut transaction, request).await? {
        OperatorKeyUse::Answered(answer) => Ok(BulkStart::Answered(answer)),
        OperatorKeyUse::Chosen { jobs, has_more } => Ok(BulkStart::Chosen { jobs, has_more }),
        OperatorKeyUse::AnotherRequest => Err(OperatorError::KeyReused),
    }
}

/// Records which jobs a request acts on, before anything is done to them.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn choose(
    BulkTransaction(mut transaction): BulkTransaction,
    request: &Request,
    jobs: &[JobId],
    has_more: bool,
) -> Result<(), OperatorError> {
    operators::choose(&mut transaction, request, jobs, has_more).await?;
    Ok(transaction.commit().await?)
}

/// Records the answer of a request for many jobs. If two requests with the same key run
/// concurrently, the first answer is kept, and both return it.
///
/// # Errors
/// Returns an error if the key was used for another request, or if Postgres fails.
pub async fn keep_many(
    pool: &PgPool,
    request: &Request,
    answer: Answer,
) -> Result<OperatorReply, OperatorError> {
    let mut transaction = database::begin(pool).await?;
    if operators::keep_answer(&mut transaction, request, &answer).await? {
        transaction.commit().await?;
        return Ok(OperatorReply::New(answer));
    }
    match operators::key_use(&mut transaction, request).await? {
        OperatorKeyUse::Answered(answer) => Ok(OperatorReply::Repeated(answer)),
        // `Chosen` does not happen: an answer was recorded before.
        OperatorKeyUse::AnotherRequest | OperatorKeyUse::Chosen { .. } => {
            Err(OperatorError::KeyReused)
        }
    }
}

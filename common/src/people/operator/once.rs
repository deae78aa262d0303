//! Idempotent requests of operators: as those of tenants ([`domain::idempotency`]), without a
//! tenant.
//!
//! The key is written first, in the transaction that does the work. A second request with the same
//! key waits for that transaction, and then finds its answer, or nothing if it was rolled back.
//!
//! An action on many jobs takes many transactions. First the jobs are chosen and recorded, then
//! each job is handled once under a key made from the request's key, and the answer is recorded
//! last. A repeated request that broke off goes on with the same jobs.

use sqlx::{PgPool, Postgres, Transaction};

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
    /// Key and hash of the request, by which a repeated one is recognised.
    pub request: &'a Request,
}

impl OperatorRequest<'_> {
    /// The request for one of many jobs. Its key contains spaces, so no tenant can send it.
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
    /// The action was done before under this key; this is the answer of then.
    Repeated(Answer),
}

/// How a request begins.
pub(super) enum BeginResult {
    /// It is new: the transaction to do it in.
    New(Transaction<'static, Postgres>),
    /// It was answered before.
    Answered(Answer),
}

/// How a request for many jobs begins.
#[derive(Debug)]
pub enum BulkStart {
    /// It is new: [`choose`] records its jobs.
    New(BulkTransaction),
    /// It broke off before it was answered, and goes on with the same jobs.
    Chosen {
        /// The jobs.
        jobs: Vec<JobId>,
        /// Whether more jobs matched than one request handles.
        has_more: bool,
    },
    /// It was answered before.
    Answered(Answer),
}

/// The transaction in which the jobs of a request are chosen.
#[derive(Debug)]
pub struct BulkTransaction(Transaction<'static, Postgres>);

/// Begins the transaction of a request; with `tenant` it sees the rows of this tenant.
pub(super) async fn begin(
    pool: &PgPool,
    tenant: Option<TenantId>,
    request: &Request,
) -> Result<BeginResult, OperatorError> {
    let mut transaction = match tenant {
        Some(tenant) => database::begin_for(pool, tenant).await?,
        None => pool.begin().await?,
    };
    if operators::claim_key(&mut transaction, request).await? {
        return Ok(BeginResult::New(transaction));
    }
    match operators::known(&mut transaction, request).await? {
        OperatorKeyUse::Answered(answer) => Ok(BeginResult::Answered(answer)),
        OperatorKeyUse::AnotherRequest | OperatorKeyUse::Chosen { .. } => {
            Err(OperatorError::KeyReused)
        }
    }
}

/// Records the answer, and commits it together with the action.
pub(super) async fn keep(
    mut transaction: Transaction<'static, Postgres>,
    request: &Request,
    answer: Answer,
) -> Result<OperatorReply, OperatorError> {
    operators::keep_answer(&mut transaction, request, &answer).await?;
    transaction.commit().await?;
    Ok(OperatorReply::New(answer))
}

/// Begins a request for many jobs.
///
/// # Errors
/// The key was used for another request, or the database failed.
pub async fn begin_many(pool: &PgPool, request: &Request) -> Result<BulkStart, OperatorError> {
    let mut transaction = pool.begin().await?;
    if operators::claim_key(&mut transaction, request).await? {
        return Ok(BulkStart::New(BulkTransaction(transaction)));
    }
    match operators::known(&mut transaction, request).await? {
        OperatorKeyUse::Answered(answer) => Ok(BulkStart::Answered(answer)),
        OperatorKeyUse::Chosen { jobs, has_more } => Ok(BulkStart::Chosen { jobs, has_more }),
        OperatorKeyUse::AnotherRequest => Err(OperatorError::KeyReused),
    }
}

/// Records the jobs of a request, before anything is done to them.
///
/// # Errors
/// The database failed.
pub async fn choose(
    BulkTransaction(mut transaction): BulkTransaction,
    request: &Request,
    jobs: &[JobId],
    has_more: bool,
) -> Result<(), OperatorError> {
    operators::choose(&mut transaction, request, jobs, has_more).await?;
    Ok(transaction.commit().await?)
}

/// Records the answer of a request for many jobs. Of two concurrent ones the first answer is kept,
/// and both return it.
///
/// # Errors
/// The key was used for another request, or the database failed.
pub async fn keep_many(
    pool: &PgPool,
    request: &Request,
    answer: Answer,
) -> Result<OperatorReply, OperatorError> {
    let mut transaction = pool.begin().await?;
    if operators::keep_answer(&mut transaction, request, &answer).await? {
        transaction.commit().await?;
        return Ok(OperatorReply::New(answer));
    }
    match operators::known(&mut transaction, request).await? {
        OperatorKeyUse::Answered(answer) => Ok(OperatorReply::Repeated(answer)),
        OperatorKeyUse::AnotherRequest | OperatorKeyUse::Chosen { .. } => {
            Err(OperatorError::KeyReused)
        }
    }
}

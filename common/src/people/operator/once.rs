//! Requests of operators that may be repeated: the same mechanism as tenants' ([`domain::idempotency`]), without a tenant.
//!
//! The key is written first, in the transaction that does the work. So a request whose key is in flight waits for the first, and
//! finds either its answer or nothing. What is done to many jobs is many transactions: which jobs is chosen and kept first, each is
//! then done once under the request's key, and the answer is kept last. A request that broke off goes on with the same jobs.

use sqlx::{PgPool, Postgres, Transaction};

use super::OperatorError;
use domain::id::{JobId, TenantId};
use domain::idempotency::{self, Answer, Request};
use domain::operator::Actor;
use storage::operators::Known;
use storage::{database, operators};

/// What an operator asks for: who, why, and the request by which it is known when it is repeated.
#[derive(Clone, Copy, Debug)]
pub struct OperatorRequest<'a> {
    pub act: Actor<'a>,
    pub request: &'a Request,
}

impl OperatorRequest<'_> {
    /// What it does to one of many jobs. A key no tenant can send, for it has spaces in it.
    pub(super) fn of_job(&self, action: &str, job: JobId) -> Request {
        let order = idempotency::request_hash(action, &self.request.key, b"");
        Request {
            key: format!("operator {action} {job} {}", hex::encode(&order[..16])),
            hash: idempotency::request_hash(action, &job.to_string(), b""),
        }
    }
}

/// The answer to an operator's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replied {
    New(Answer),
    /// It was done before under this key, and answered so.
    Repeated(Answer),
}

/// The transaction of a request that is new, or the answer it was given before.
pub(super) enum Begun {
    New(Transaction<'static, Postgres>),
    Answered(Answer),
}

/// The jobs a request is for, or the answer it was given before.
#[derive(Debug)]
pub enum BulkStart {
    /// It was not begun before: [`choose`] keeps what it is for.
    New(BulkTransaction),
    /// It broke off: it goes on with these.
    Chosen {
        jobs: Vec<JobId>,
        has_more: bool,
    },
    Answered(Answer),
}

/// The transaction in which the jobs of a request are chosen.
#[derive(Debug)]
pub struct BulkTransaction(Transaction<'static, Postgres>);

/// Begins the transaction of a request, which is about this tenant where one is named.
pub(super) async fn begin(
    pool: &PgPool,
    tenant: Option<TenantId>,
    request: &Request,
) -> Result<Begun, OperatorError> {
    let mut transaction = match tenant {
        Some(tenant) => database::begin_for(pool, tenant).await?,
        None => pool.begin().await?,
    };
    if operators::claim_key(&mut transaction, request).await? {
        return Ok(Begun::New(transaction));
    }
    match operators::known(&mut transaction, request).await? {
        Known::Answered(answer) => Ok(Begun::Answered(answer)),
        Known::AnotherRequest | Known::Chosen { .. } => Err(OperatorError::KeyReused),
    }
}

/// Keeps the answer and commits it with the effect.
pub(super) async fn keep(
    mut transaction: Transaction<'static, Postgres>,
    request: &Request,
    answer: Answer,
) -> Result<Replied, OperatorError> {
    operators::keep_answer(&mut transaction, request, &answer).await?;
    transaction.commit().await?;
    Ok(Replied::New(answer))
}

/// Begins a request for many jobs.
pub async fn begin_many(pool: &PgPool, request: &Request) -> Result<BulkStart, OperatorError> {
    let mut transaction = pool.begin().await?;
    if operators::claim_key(&mut transaction, request).await? {
        return Ok(BulkStart::New(BulkTransaction(transaction)));
    }
    match operators::known(&mut transaction, request).await? {
        Known::Answered(answer) => Ok(BulkStart::Answered(answer)),
        Known::Chosen { jobs, has_more } => Ok(BulkStart::Chosen { jobs, has_more }),
        Known::AnotherRequest => Err(OperatorError::KeyReused),
    }
}

/// Keeps which jobs a request is for, before anything is done to them.
pub async fn choose(
    BulkTransaction(mut transaction): BulkTransaction,
    request: &Request,
    jobs: &[JobId],
    has_more: bool,
) -> Result<(), OperatorError> {
    operators::choose(&mut transaction, request, jobs, has_more).await?;
    Ok(transaction.commit().await?)
}

/// Keeps the answer of a request for many jobs. Where two did it side by side, the first answer stands.
pub async fn keep_many(
    pool: &PgPool,
    request: &Request,
    answer: Answer,
) -> Result<Replied, OperatorError> {
    let mut transaction = pool.begin().await?;
    if operators::keep_answer(&mut transaction, request, &answer).await? {
        transaction.commit().await?;
        return Ok(Replied::New(answer));
    }
    match operators::known(&mut transaction, request).await? {
        Known::Answered(answer) => Ok(Replied::Repeated(answer)),
        Known::AnotherRequest | Known::Chosen { .. } => Err(OperatorError::KeyReused),
    }
}

//! Admission: the one transaction in which a job begins. Job, hold and ledger line are written together with
//! the answer the client gets, or nothing is.
//!
//! The tenant's wallet is locked first, so submits of one tenant go one after the other: two cannot spend
//! the same credit, and a repeated request waits for the first and gets its answer. After the commit the job
//! is rung: read [`crate::dispatch`] next.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::wildcard_enum_match_arm
)]

use std::time::Duration;

use serde_json::json;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use crate::config::Unpaid;
use crate::failpoint::reach;
use domain::allowance::Used;
use domain::credits::{Credits, InvalidCredits, Quote};
use domain::generation::Generation;
use domain::id::{JobId, TenantId};
use domain::idempotency::{self, Answer, Known};
use domain::job::Job;
use domain::ledger::{self, Transfer};
use domain::operator::Actor;
use domain::storage_limit::Stored;
use domain::traceparent::TraceParent;
use storage::database;
use storage::database::row::RowId;

/// Paid calls a job may make for each output it asks for, all outputs together.
const CALLS_PER_OUTPUT: u64 = 3;

/// A request that is understood and quoted.
#[derive(Debug)]
pub struct Admission<'a> {
    pub tenant: TenantId,
    pub idempotency: idempotency::Request,
    pub job: JobId,
    pub model: String,
    pub name: Option<String>,
    pub metadata: serde_json::Value,
    pub request_id: String,
    /// What submits it, in its client's trace.
    pub traceparent: Option<TraceParent>,
    pub generation: Generation,
    pub quote: Quote,
    pub priority: i16,
    pub run_at: Option<OffsetDateTime>,
    /// How long the job may stay open once it may run.
    pub cancel_after: Duration,
    /// How long a call of its model may take. A job that may be open for less can abandon what it began.
    pub model_timeout: Duration,
    /// Whether it may be made on another lane than its model's own.
    pub fallback: bool,
    /// The model asked for, where its successor is taken instead.
    pub switched_from: Option<String>,
    /// What it does once more, where an operator wants so.
    pub redrive: Option<Redrive<'a>>,
    /// What a tenant may use that it does not pay for.
    pub unpaid: Unpaid,
}

/// A job that failed, which is done once more. The act is kept with the new job.
#[derive(Clone, Copy, Debug)]
pub struct Redrive<'a> {
    pub of: JobId,
    pub act: Actor<'a>,
}

/// A request that was answered with success.
#[derive(Debug)]
pub enum Admitted {
    /// A new job: ring it.
    New { job: Box<Job>, answer: Answer },
    /// The answer this key was given before.
    Repeated(Answer),
}

/// Why a request was not admitted. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("this needs {needed}, and {available} are available")]
    InsufficientCredits { needed: Credits, available: Credits },
    #[error("this tenant may not submit jobs at present")]
    Inactive,
    #[error("this idempotency key was used for another request")]
    KeyReused,
    #[error("an upload it names was deleted")]
    UploadGone,
    #[error("this tenant abandoned {} calls in the last hour, which is all it may", .used.calls)]
    AllowanceUsed { used: Used, least: Duration },
    #[error("there is no room for {more} bytes more: {stored} of {limit} are in use")]
    StorageFull { more: i64, stored: i64, limit: i64 },
    #[error("it was done once more before, as job {0}")]
    Redriven(JobId),
    #[error(transparent)]
    Amount(#[from] InvalidCredits),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Admits a job. `answer` makes the reply from the new job's row; it is kept for whoever repeats the request.
pub async fn admit(
    pool: &PgPool,
    admission: &Admission<'_>,
    answer: impl FnOnce(&Job) -> Answer,
) -> Result<Admitted, Refusal> {
    let tenant = admission.tenant;
    let hold = admission.quote.hold()?;
    let mut transaction = database::begin_for(pool, tenant).await?;

    let wallet = storage::ledger::lock_wallet(&mut transaction, tenant)
        .await?
        .ok_or(Refusal::Inactive)?;
    if let Some(answer) = find_answer(&mut transaction, tenant, &admission.idempotency).await? {
        return Ok(Admitted::Repeated(answer));
    }
    if !wallet.active {
        return Err(Refusal::Inactive);
    }
    if let Some(redrive) = &admission.redrive
        && let Some(new) = storage::operators::redriven(&mut transaction, redrive.of).await?
    {
        return Err(Refusal::Redriven(new));
    }
    if !storage::uploads::pin(&mut transaction, &admission.generation.uploads()).await? {
        return Err(Refusal::UploadGone);
    }
    if admission.cancel_after < admission.model_timeout {
        let used = storage::allowances::used(&mut transaction, tenant).await?;
        if !used.allows(1, admission.unpaid.cancel_allowance) {
            let least = admission.model_timeout;
            return Err(Refusal::AllowanceUsed { used, least });
        }
    }
    let more = admission.generation.own_bytes();
    check_storage_limit(&mut transaction, tenant, more, &admission.unpaid).await?;
    let insufficient = Refusal::InsufficientCredits {
        needed: hold,
        available: wallet.available,
    };
    if wallet.available < hold {
        return Err(insufficient);
    }

    let outputs = u64::from(admission.quote.outputs);
    let max_calls = RowId::new("jobs", admission.job)
        .fits("max_calls", outputs.saturating_mul(CALLS_PER_OUTPUT))?;
    let job = storage::jobs::insert(
        &mut transaction,
        &storage::jobs::NewJob {
            id: admission.job,
            tenant,
            model: &admission.model,
            name: admission.name.as_deref(),
            metadata: &admission.metadata,
            request_id: &admission.request_id,
            traceparent: admission.traceparent.as_ref(),
            generation: &admission.generation,
            quote: &admission.quote,
            hold,
            max_calls,
            priority: admission.priority,
            run_at: admission.run_at,
            deadline_in: admission.cancel_after,
            fallback: admission.fallback,
            switched_from: admission.switched_from.as_deref(),
            redrive_of: admission.redrive.map(|redrive| redrive.of),
        },
    )
    .await?;
    if !hold.is_zero() {
        let lots = storage::ledger::lock_lots(&mut transaction, tenant).await?;
        let shares = ledger::burn(&lots, hold).ok_or(insufficient)?;
        storage::ledger::hold_lots(&mut transaction, tenant, job.id, &shares).await?;
        storage::ledger::post(&mut transaction, tenant, &Transfer::hold(job.id, hold)).await?;
    }
    if let Some(Redrive { of, act }) = admission.redrive {
        let subject = json!({ "job": of, "new": job.id, "tenant": tenant });
        storage::operators::record(&mut transaction, act, "redrive", &subject).await?;
    }
    let answer = answer(&job);
    storage::idempotency::keep(&mut transaction, tenant, &admission.idempotency, &answer).await?;
    reach("admission:before_commit").await?;
    transaction.commit().await?;
    reach("admission:after_commit").await?;
    Ok(Admitted::New {
        job: Box::new(job),
        answer,
    })
}

/// Refuses what would make a tenant's files larger than they may be. It decides where the wallet is locked.
///
/// # Errors
/// [`Refusal::StorageFull`], or what Postgres says.
pub async fn check_storage_limit(
    connection: &mut PgConnection,
    tenant: TenantId,
    more: i64,
    unpaid: &Unpaid,
) -> Result<(), Refusal> {
    let Some(limit) = unpaid.storage.filter(|_| more > 0) else {
        return Ok(());
    };
    let stored = storage::stored_bytes::stored(connection, tenant).await?;
    match stored {
        Stored { bytes: Some(bytes) } if !stored.has_room(more, Some(limit)) => {
            Err(Refusal::StorageFull {
                more,
                stored: bytes,
                limit,
            })
        }
        _ => Ok(()),
    }
}

/// The answer this request was given before, without taking a lock: a repeated upload need not be stored again.
pub async fn answered_before(
    pool: &PgPool,
    tenant: TenantId,
    request: &idempotency::Request,
) -> Result<Option<Answer>, Refusal> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    find_answer(&mut transaction, tenant, request).await
}

/// The same, in a transaction. It decides where the wallet is locked.
pub(crate) async fn find_answer(
    connection: &mut PgConnection,
    tenant: TenantId,
    request: &idempotency::Request,
) -> Result<Option<Answer>, Refusal> {
    match storage::idempotency::find(connection, tenant, request).await? {
        Some(Known::Answered(answer)) => Ok(Some(answer)),
        Some(Known::AnotherRequest) => Err(Refusal::KeyReused),
        None => Ok(None),
    }
}

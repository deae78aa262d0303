//! Admission: the one transaction that creates a job.
//!
//! The transaction writes the job, the hold, the ledger line and the answer to the client together,
//! or nothing at all. It locks the tenant's wallet first. So the submits of one tenant run one
//! after the other. Two of them cannot spend the same credit, and a repeated request waits for the
//! first request and returns its answer. After the commit the caller pushes the job to the ready
//! queue; read [`crate::dispatch`] next.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::wildcard_enum_match_arm
)]

use std::time::Duration;

use serde_json::json;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use crate::config::UnbilledLimits;
use crate::failpoint::reach;
use domain::allowance::AllowanceUsage;
use domain::credits::{Credits, InvalidCredits, Quote};
use domain::generation::Generation;
use domain::id::{JobId, TenantId};
use domain::idempotency::{self, Answer, KeyUse};
use domain::job::{Job, JobAttributes};
use domain::ledger::{self, Transfer};
use domain::operator::Actor;
use domain::storage_limit::StorageUsage;
use domain::traceparent::TraceParent;
use storage::database;
use storage::database::row::RowId;

/// Paid calls per requested output. A job may make this many calls times its number of outputs. All
/// its outputs share these calls.
const CALLS_PER_OUTPUT: u64 = 3;

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
    /// Longest time that one call of the model may take. A job with a shorter deadline can abandon
    /// a call that has begun.
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
    /// Postgres failed. If the connection broke during the commit, the job may exist all the same: a
    /// client that repeats its request with the same key gets the answer.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Creates a job: checks every limit, holds the credits, and writes the job and the answer.
///
/// `answer` builds the reply from the new job's row. The reply is stored under the idempotency key,
/// and a repeated request gets it again.
///
/// # Errors
/// Returns an [`AdmissionError`] if a check fails; nothing is written in that case.
pub async fn admit(
    pool: &PgPool,
    admission: &Admission<'_>,
    answer: impl FnOnce(&Job) -> Answer,
) -> Result<Admitted, AdmissionError> {
    let tenant = admission.tenant;
    let hold = admission.quote.hold()?;
    let mut transaction = database::begin_for(pool, tenant).await?;

    // The wallet is locked before anything is read. All checks below depend on what they read, and
    // no other transaction of this tenant can change that until this one ends.
    let wallet = storage::ledger::lock_wallet(&mut transaction, tenant)
        .await?
        .ok_or(AdmissionError::Inactive)?;
    // The idempotency key is looked up before every other check: a repeated request gets its first
    // answer, even if the tenant's wallet has been restricted or emptied since.
    if let Some(answer) = find_answer(&mut transaction, tenant, &admission.idempotency).await? {
        return Ok(Admitted::Repeated(answer));
    }
    if !wallet.may_submit {
        return Err(AdmissionError::Inactive);
    }
    if let Some(redrive) = &admission.redrive
        && let Some(new) = storage::operators::redriven(&mut transaction, redrive.of).await?
    {
        return Err(AdmissionError::Redriven(new));
    }
    // Locks the uploads: they cannot be deleted between this check and the commit.
    if !storage::uploads::pin(&mut transaction, &admission.generation.uploads()).await? {
        return Err(AdmissionError::UploadGone);
    }
    // A job whose deadline is shorter than a model call can take is as good as canceled in advance,
    // so it counts against the cancel allowance. Without this check a tenant could submit a
    // thousand such jobs, and we would pay for calls that nobody waits for.
    if admission.cancel_after < admission.model_timeout {
        let used = storage::allowances::used(&mut transaction, tenant).await?;
        if !used.allows(1, admission.unbilled_limits.cancel_allowance) {
            let shortest_deadline = admission.model_timeout;
            return Err(AdmissionError::AllowanceUsed {
                used,
                shortest_deadline,
            });
        }
    }
    let more = admission.generation.inline_bytes();
    check_storage_limit(&mut transaction, tenant, more, &admission.unbilled_limits).await?;
    let insufficient = AdmissionError::InsufficientCredits {
        needed: hold,
        available: wallet.available,
    };
    // Checked here for the exact error. `never_overdrawn` in the database is the second guard.
    if wallet.available < hold {
        return Err(insufficient);
    }

    let outputs = u64::from(admission.quote.outputs);
    let max_calls = RowId::new("jobs", admission.job)
        .convert("max_calls", outputs.saturating_mul(CALLS_PER_OUTPUT))?;
    let job = storage::jobs::insert(
        &mut transaction,
        &storage::jobs::NewJob {
            id: admission.job,
            tenant,
            attributes: &admission.attributes,
            request_id: &admission.request_id,
            traceparent: admission.traceparent.as_ref(),
            generation: &admission.generation,
            quote: &admission.quote,
            hold,
            max_calls,
            run_at: admission.run_at,
            deadline_in: admission.cancel_after,
            redrive_of: admission.redrive.map(|redrive| redrive.of),
        },
    )
    .await?;
    if !hold.is_zero() {
        // The lots can give less than the wallet shows: credits of an expired lot may not be held,
        // but they are still part of the balance.
        let lots = storage::ledger::lock_lots(&mut transaction, tenant).await?;
        let shares = ledger::split_over_lots(&lots, hold).ok_or(insufficient)?;
        storage::ledger::hold_lots(&mut transaction, tenant, job.id, &shares).await?;
        storage::ledger::post(&mut transaction, tenant, &Transfer::hold(job.id, hold)).await?;
    }
    if let Some(Redrive { of, actor }) = admission.redrive {
        let subject = json!({ "job": of, "new": job.id, "tenant": tenant });
        storage::operators::record(&mut transaction, actor, "redrive", &subject).await?;
    }
    // The answer is stored in the same transaction. If the process dies after the commit and before
    // it replies, the client repeats its request and gets this answer, not a second job.
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
    let Some(limit) = unbilled_limits.storage.filter(|_| more > 0) else {
        return Ok(());
    };
    let stored = storage::stored_bytes::stored(connection, tenant).await?;
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
/// This function takes no lock, so `None` is no proof that the request is new; [`admit`] looks
/// again under the lock. An early answer saves work: the inputs of a repeated request need not be
/// stored again.
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

//! The actions of operators.
//!
//! Each action has a reason, and its audit entry is written in the same transaction. So there is no
//! action without an audit entry, and no entry without its action. A repeated request has no second
//! effect ([`once`]).
//!
//! Operators see the jobs of all tenants and change one tenant at a time, with the same procedures
//! as the tenants themselves: a redrive admits a new job, a cancellation settles one. Only
//! [`adjust`] moves credits by itself.

pub mod once;
pub mod tenants;

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use sqlx::PgPool;
use utoipa::ToSchema;

use crate::admission::{self, Admission, AdmissionError, Admitted, Redrive};
use crate::config::UnbilledLimits;
use crate::files::orphans::SearchError;
use crate::files::ownership;
use crate::settlement::{self, Canceler, Cancellation, SettlementError};
use bucket::{Bucket, BucketError};
use domain::artifact::input_key;
use domain::catalog::Catalog;
use domain::clock;
use domain::credits::{CreditLimitError, Credits};
use domain::generation::Generation;
use domain::id::{GrantId, JobId, TenantId};
use domain::idempotency::Answer;
use domain::job::{Job, JobAttributes, State};
use domain::ledger::{self, Account, Cause, Transfer};
use domain::operator::Scope;
use once::{BeginResult, OperatorReply, OperatorRequest};
use storage::database;

/// The longest reason, in characters.
pub const MAX_REASON: usize = 500;
/// How long a redriven job may stay open.
const REDRIVE_DEADLINE: Duration = Duration::from_hours(24);

/// What an action did to one of several jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ActionResult {
    /// The job.
    #[schema(value_type = String)]
    pub job: JobId,
    /// The new job of a redrive, also if an earlier request made it.
    #[schema(value_type = Option<String>)]
    pub new: Option<JobId>,
    /// Why nothing was done.
    pub skipped: Option<String>,
}

impl ActionResult {
    /// The result for a job to which nothing was done, with the reason.
    pub fn skipped(job: &Job, why: String) -> Self {
        Self {
            job: job.id,
            new: None,
            skipped: Some(why),
        }
    }

    /// The result for a job that was redriven as `new`.
    fn redriven(job: &Job, new: JobId) -> Self {
        Self {
            job: job.id,
            new: Some(new),
            skipped: None,
        }
    }
}

/// Why a request of an operator failed. Nothing was done, unless the docs of the procedure say
/// otherwise.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// More credits were to be taken than the tenant has available.
    #[error("the tenant has only {available} available")]
    InsufficientCredits {
        /// Credits that the tenant has available.
        available: Credits,
    },
    /// More credits than one transfer, or one wallet, may have.
    #[error(transparent)]
    CreditLimit(#[from] CreditLimitError),
    /// The tenant does not exist.
    #[error("there is no such tenant")]
    NoTenant,
    /// The idempotency key belongs to another request.
    #[error("this idempotency key was used for another request")]
    KeyReused,
    /// The bucket failed.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// A job could not be settled.
    #[error(transparent)]
    Settlement(#[from] SettlementError),
    /// The database failed. After a lost connection the action may have been done: repeat the
    /// request.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl From<SearchError> for OperatorError {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::Bucket(error) => Self::Bucket(error),
            SearchError::Database(error) => Self::Database(error),
        }
    }
}

/// Pauses the jobs in `scope`: they are accepted, but not started. `answer` makes the answer to the
/// operator from the number of the pause.
///
/// # Errors
/// Returns an error if the tenant does not exist, if the key was used for another request, or if
/// Postgres fails.
pub async fn pause(
    pool: &PgPool,
    operator_request: OperatorRequest<'_>,
    scope: &Scope,
    answer: impl FnOnce(i64) -> Answer,
) -> Result<OperatorReply, OperatorError> {
    let mut transaction = match once::begin(pool, scope.tenant, operator_request.request).await? {
        BeginResult::New(transaction) => transaction,
        BeginResult::Answered(answer) => return Ok(OperatorReply::Repeated(answer)),
    };
    if let Some(tenant) = scope.tenant
        && !storage::tenants::exists(&mut transaction, tenant).await?
    {
        return Err(OperatorError::NoTenant);
    }
    let id =
        storage::operators::pause(&mut transaction, operator_request.actor.reason, scope).await?;
    let subject = json!({ "pause": id, "model": scope.model, "tenant": scope.tenant, "worker": scope.worker });
    let action = if scope.worker.is_some() {
        "drain"
    } else {
        "pause"
    };
    storage::operators::record(&mut transaction, operator_request.actor, action, &subject).await?;
    once::keep(transaction, operator_request.request, answer(id)).await
}

/// Ends a pause. Returns `None` if the pause does not exist or has ended.
///
/// # Errors
/// Returns an error if the key was used for another request, or if Postgres fails.
pub async fn resume(
    pool: &PgPool,
    operator_request: OperatorRequest<'_>,
    id: i64,
) -> Result<Option<OperatorReply>, OperatorError> {
    let mut transaction = match once::begin(pool, None, operator_request.request).await? {
        BeginResult::New(transaction) => transaction,
        BeginResult::Answered(answer) => return Ok(Some(OperatorReply::Repeated(answer))),
    };
    if !storage::operators::resume(&mut transaction, id).await? {
        return Ok(None);
    }
    let subject = json!({ "pause": id });
    storage::operators::record(&mut transaction, operator_request.actor, "resume", &subject)
        .await?;
    let replied = once::keep(transaction, operator_request.request, Answer::empty(204)).await?;
    Ok(Some(replied))
}

/// Freezes a tenant, so that it can submit no more jobs, or unfreezes it. Open jobs go on. Also
/// returns whether this request changed anything.
///
/// # Errors
/// Returns an error if the tenant does not exist, if the key was used for another request, or if
/// Postgres fails.
pub async fn set_frozen(
    pool: &PgPool,
    operator_request: OperatorRequest<'_>,
    tenant: TenantId,
    frozen: bool,
) -> Result<(OperatorReply, bool), OperatorError> {
    let mut transaction = match once::begin(pool, Some(tenant), operator_request.request).await? {
        BeginResult::New(transaction) => transaction,
        BeginResult::Answered(answer) => return Ok((OperatorReply::Repeated(answer), false)),
    };
    if storage::ledger::lock_wallet(&mut transaction, tenant)
        .await?
        .is_none()
    {
        return Err(OperatorError::NoTenant);
    }
    let changed = storage::operators::set_frozen(&mut transaction, tenant, frozen).await?;
    if changed {
        let action = if frozen { "freeze" } else { "unfreeze" };
        let subject = json!({ "tenant": tenant });
        storage::operators::record(&mut transaction, operator_request.actor, action, &subject)
            .await?;
    }
    let replied = once::keep(transaction, operator_request.request, Answer::empty(204)).await?;
    Ok((replied, changed))
}

/// Gives credits to a tenant if `gives` is `true`. Otherwise takes credits that the tenant has
/// available. Such a transfer belongs to no purchase and to no job.
///
/// # Errors
/// Returns an error if the amount is too large, if the tenant does not exist or has less available,
/// if the key was used for another request, or if Postgres fails.
pub async fn adjust(
    pool: &PgPool,
    operator_request: OperatorRequest<'_>,
    tenant: TenantId,
    amount: Credits,
    gives: bool,
) -> Result<OperatorReply, OperatorError> {
    if amount > Credits::MAX_TRANSFER {
        return Err(CreditLimitError::Moved.into());
    }
    let mut transaction = match once::begin(pool, Some(tenant), operator_request.request).await? {
        BeginResult::New(transaction) => transaction,
        BeginResult::Answered(answer) => return Ok(OperatorReply::Repeated(answer)),
    };
    // The wallet's lock is taken first, as in every procedure that moves credits. With one order of
    // locks there is no deadlock.
    let wallet = storage::ledger::lock_wallet(&mut transaction, tenant).await?;
    let wallet = wallet.ok_or(OperatorError::NoTenant)?;
    // The id of the new grant. Taken credits have no grant; their transfer still needs a reference
    // that is unique.
    let reference = GrantId::new();
    let (debit, credit) = if gives {
        wallet.may_be_given(amount)?;
        storage::ledger::insert_adjustment(&mut transaction, tenant, reference, amount).await?;
        (Account::Adjust, Account::Available)
    } else {
        let lots = storage::ledger::lock_lots(&mut transaction, tenant).await?;
        let available = wallet.available;
        let shares = ledger::split_over_lots(&lots, amount)
            .ok_or(OperatorError::InsufficientCredits { available })?;
        storage::ledger::forfeit_lots(&mut transaction, &shares).await?;
        (Account::Available, Account::Adjust)
    };
    let transfer = Transfer {
        cause: Cause::Adjust,
        debit,
        credit,
        amount,
        reference: reference.0.to_string(),
    };
    storage::ledger::post(&mut transaction, tenant, &transfer).await?;
    let signed_amount = if gives {
        amount.get()
    } else {
        amount.get().saturating_neg()
    };
    let subject = json!({ "tenant": tenant, "credits": signed_amount, "transfer": reference.0 });
    storage::operators::record(&mut transaction, operator_request.actor, "adjust", &subject)
        .await?;
    once::keep(transaction, operator_request.request, Answer::empty(204)).await
}

/// Cancels an open job and releases all credits held for it. The audit entry is written in the
/// transaction that settles the job. A job that has ended is skipped.
///
/// # Errors
/// Returns an error if the settlement fails.
pub async fn cancel(
    pool: &PgPool,
    operator_request: OperatorRequest<'_>,
    job: &Job,
) -> Result<ActionResult, OperatorError> {
    let request = operator_request.for_job("cancel", job.id);
    let answer = |job: &Job| Answer::json(200, &json!({ "id": job.id }));
    let canceler = Canceler::Operator(operator_request.actor);
    let canceled =
        settlement::cancel(pool, canceler, (job.tenant, job.id), &request, answer).await?;
    let skipped = match canceled {
        // `Repeated`: this request was made before and has canceled the job.
        Cancellation::Canceled(_) | Cancellation::Repeated(_) => None,
        Cancellation::AlreadyEnded(state) => {
            Some(format!("its state is already {}", state.as_str()))
        }
        // The first and the last do not happen to operators: the key is made from the job's id, and
        // the allowance does not apply.
        Cancellation::KeyReused | Cancellation::NotFound | Cancellation::AllowanceUsed(_) => {
            Some("there is no such job".to_owned())
        }
    };
    Ok(ActionResult {
        job: job.id,
        new: None,
        skipped,
    })
}

/// Redrives a job that failed or expired: submits the same request as a new job at today's price.
/// The new job is charged only if it delivers. Each job can be redriven only once, even by
/// concurrent requests. The audit entry is written in the transaction that admits the new job. A
/// job that cannot be redriven is skipped.
///
/// # Errors
/// Returns an error if the bucket or Postgres fails. After a lost connection the new job may exist:
/// repeat the request.
pub async fn redrive(
    pool: &PgPool,
    bucket: &Bucket,
    catalog: &Catalog,
    operator_request: OperatorRequest<'_>,
    old: &Job,
) -> Result<ActionResult, OperatorError> {
    let skip = |why: String| Ok(ActionResult::skipped(old, why));
    let redriven_before = |new| ActionResult {
        job: old.id,
        new: Some(new),
        skipped: Some("it was redriven before".to_owned()),
    };
    if !matches!(old.state, State::Failed | State::Expired) {
        return skip(format!("its state is {}", old.state.as_str()));
    }
    let request = operator_request.for_job("redrive", old.id);
    let mut transaction = database::begin_for(pool, old.tenant).await?;
    let redriven = storage::operators::redriven(&mut transaction, old.id).await?;
    let key_use = storage::idempotency::find(&mut transaction, old.tenant, &request).await?;
    let generation = storage::jobs::request(&mut transaction, old.id).await?;
    transaction.commit().await?;
    if let Some(new) = redriven {
        // If the key is stored, this request was made before and has made the new job. Otherwise
        // another request has made it.
        let result = key_use.map_or_else(
            || redriven_before(new),
            |_| ActionResult::redriven(old, new),
        );
        return Ok(result);
    }
    let Some(mut generation) = generation else {
        return skip("its prompt was deleted, as its tenant's retention says".to_owned());
    };
    let quote = match catalog.quote(&old.attributes.model, &generation, clock::now().date()) {
        Ok(quote) => quote,
        Err(not_offered) => return skip(not_offered.to_string()),
    };
    let id = JobId::new();
    // The keys of the copies.
    let mut copies = Vec::new();
    let copied = copy_inputs(pool, bucket, old.tenant, id, &mut generation, &mut copies).await;
    if !matches!(copied, Ok(true)) {
        discard(bucket, &copies).await;
        copied?;
        return skip("its inputs were deleted".to_owned());
    }
    let admission = Admission {
        tenant: old.tenant,
        idempotency: request,
        job: id,
        attributes: JobAttributes {
            switched_from: None,
            ..old.attributes.clone()
        },
        request_id: old.request_id.clone(),
        traceparent: None,
        generation,
        quote,
        run_at: None,
        cancel_after: REDRIVE_DEADLINE,
        // With zero, the cancel allowance is not checked: the tenant did not ask for this job.
        model_timeout: Duration::ZERO,
        redrive: Some(Redrive {
            of: old.id,
            actor: operator_request.actor,
        }),
        // There is no limit on storage, because the tenant did not ask for this job, and its inputs
        // were stored before.
        unbilled_limits: UnbilledLimits {
            storage: None,
            ..UnbilledLimits::default()
        },
    };
    let admitted = admission::admit(pool, &admission, |job| Answer {
        location: Some(format!("/v1/jobs/{}", job.id)),
        ..Answer::json(202, &json!({ "id": job.id }))
    });
    let admitted = admitted.await;
    // After a lost connection the job may exist and need its copies. They are removed only if it is
    // certain that there is no job. Otherwise the sweeper removes them later if no row names them.
    if !matches!(
        admitted,
        Ok(Admitted::New { .. }) | Err(AdmissionError::Database(_))
    ) {
        discard(bucket, &copies).await;
    }
    match admitted {
        Ok(Admitted::New { job, .. }) => Ok(ActionResult::redriven(old, job.id)),
        // The same request ran concurrently and was faster.
        Ok(Admitted::Repeated(_)) => {
            let mut transaction = database::begin_for(pool, old.tenant).await?;
            let new = storage::operators::redriven(&mut transaction, old.id).await?;
            Ok(ActionResult {
                job: old.id,
                new,
                skipped: None,
            })
        }
        Err(AdmissionError::Redriven(new)) => Ok(redriven_before(new)),
        Err(AdmissionError::Database(error)) => Err(error.into()),
        Err(refusal) => skip(refusal.to_string()),
    }
}

/// Copies the inputs of a job that is redriven, and changes `generation` to name the copies, whose
/// keys belong to `new_job`. The inputs of the old job are deleted when their retention is over,
/// which counts from the end of the old job. Uploads are shared and not copied. `copies` gets each
/// key before it is written, because a write that fails may still leave an object. So the caller
/// can remove all copies if this function fails. Returns `false` if an input was deleted.
async fn copy_inputs(
    pool: &PgPool,
    bucket: &Bucket,
    tenant: TenantId,
    new_job: JobId,
    generation: &mut Generation,
    copies: &mut Vec<String>,
) -> Result<bool, OperatorError> {
    let Generation::Image(request) = generation;
    if request.inputs.is_empty() {
        return Ok(true);
    }
    ownership::must_be_usable(pool, bucket).await?;
    for (index, input) in request.inputs.iter_mut().enumerate() {
        if input.upload.is_some() {
            continue;
        }
        let Some(bytes) = bucket.get(&input.object_key).await? else {
            return Ok(false);
        };
        input.object_key = input_key(tenant, new_job, index);
        copies.push(input.object_key.clone());
        bucket.put_new(&input.object_key, bytes).await?;
    }
    // Checked again, because files that were written into another database's bucket would be lost.
    ownership::must_be_usable(pool, bucket).await?;
    Ok(true)
}

/// Removes copies of inputs that no job names. A failure is only logged.
async fn discard(bucket: &Bucket, copies: &[String]) {
    for key in copies {
        if let Err(error) = bucket.delete(key).await {
            tracing::warn!(%error, key, "A copy of an input could not be deleted; the sweeper deletes it later");
        }
    }
}

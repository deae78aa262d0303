//! What operators may do, whoever they are: each act has a reason and is recorded, in the transaction that does it, or before it
//! where that is another procedure's: nothing is done that no record names.
//!
//! They see all tenants' jobs and change one tenant at a time, by the same procedures as the tenants themselves: a job that is done
//! once more is admitted, one that is ended is settled. So nothing here moves a credit by itself but [`adjust`].

pub mod store;
pub mod tenants;

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgPool;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::admission::{self, Admission, Admitted, Refusal};
use crate::artifact::input_key;
use crate::bucket::{Bucket, BucketError};
use crate::catalog::Catalog;
use crate::credits::Credits;
use crate::database;
use crate::generation::Generation;
use crate::id::{GrantId, JobId, TenantId};
use crate::idempotency::{self, Answer};
use crate::job::{self, Job, State};
use crate::ledger::{self, Account, Cause, Transfer};
use crate::orphans::SearchError;
use crate::ownership;
use crate::settlement::{self, Cancellation, SettlementError};
use crate::{clock, tenant};

/// The longest reason, in characters.
pub const MAX_REASON: usize = 500;
/// How long a job that is done once more may stay open.
const OPEN_FOR: std::time::Duration = std::time::Duration::from_hours(24);

/// Who does it, and why.
#[derive(Clone, Copy, Debug)]
pub struct Act<'a> {
    pub by: &'a str,
    pub reason: &'a str,
}

/// Whose jobs are not started: of those that fit everything that is said here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    pub model: Option<String>,
    pub tenant: Option<TenantId>,
    /// It is drained: what it has under way ends, and it starts nothing.
    pub worker: Option<String>,
}

/// A pause that stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Pause {
    pub id: i64,
    pub model: Option<String>,
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantId>,
    pub worker: Option<String>,
    pub reason: String,
    #[serde(with = "time::serde::rfc3339")]
    pub paused_at: OffsetDateTime,
}

/// Something that was done.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Done {
    pub id: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub by: String,
    pub action: String,
    pub reason: String,
    #[schema(value_type = Object)]
    pub subject: Value,
}

/// What became of one job of many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Outcome {
    #[schema(value_type = String)]
    pub job: JobId,
    /// The new job, where one was made or had been before.
    #[schema(value_type = Option<String>)]
    pub new: Option<JobId>,
    /// Why nothing was done.
    pub skipped: Option<String>,
}

impl Outcome {
    /// Nothing was done to it.
    pub fn skipped(job: &Job, why: String) -> Self {
        Self {
            job: job.id,
            new: None,
            skipped: Some(why),
        }
    }
}

/// Why nothing could be done at all.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    #[error("the tenant has {available} available, which is less")]
    TooMuch { available: Credits },
    #[error("there is no such tenant")]
    NoTenant,
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Settlement(#[from] SettlementError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl From<SearchError> for OperationError {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::Bucket(error) => Self::Bucket(error),
            SearchError::Database(error) => Self::Database(error),
        }
    }
}

/// Stops jobs from being started; they are accepted as before. Returns the pause's number.
pub async fn pause(pool: &PgPool, act: Act<'_>, scope: &Scope) -> Result<i64, OperationError> {
    let mut transaction = match scope.tenant {
        Some(tenant) => database::begin_for(pool, tenant).await?,
        None => pool.begin().await?,
    };
    if let Some(tenant) = scope.tenant
        && !tenant::store::exists(&mut transaction, tenant).await?
    {
        return Err(OperationError::NoTenant);
    }
    let id = store::pause(&mut transaction, act.reason, scope).await?;
    let subject = json!({ "pause": id, "model": scope.model, "tenant": scope.tenant, "worker": scope.worker });
    let action = if scope.worker.is_some() {
        "drain"
    } else {
        "pause"
    };
    store::record(&mut transaction, act, action, &subject).await?;
    transaction.commit().await?;
    Ok(id)
}

/// Ends a pause. `false`: there is none that stands.
pub async fn resume(pool: &PgPool, act: Act<'_>, id: i64) -> Result<bool, OperationError> {
    let mut transaction = pool.begin().await?;
    let lifted = store::lift(&mut transaction, id).await?;
    if lifted {
        store::record(&mut transaction, act, "resume", &json!({ "pause": id })).await?;
        transaction.commit().await?;
    }
    Ok(lifted)
}

/// Lets a tenant submit no more jobs, or submit again; what is open goes on. `false`: that was so before.
pub async fn freeze(
    pool: &PgPool,
    act: Act<'_>,
    tenant: TenantId,
    frozen: bool,
) -> Result<bool, OperationError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    if ledger::store::lock_wallet(&mut transaction, tenant)
        .await?
        .is_none()
    {
        return Err(OperationError::NoTenant);
    }
    let changed = store::freeze(&mut transaction, tenant, frozen).await?;
    if changed {
        let action = if frozen { "freeze" } else { "unfreeze" };
        store::record(&mut transaction, act, action, &json!({ "tenant": tenant })).await?;
        transaction.commit().await?;
    }
    Ok(changed)
}

/// Gives a tenant credits, or takes what it has not spent: what nobody bought and no job explains.
pub async fn adjust(
    pool: &PgPool,
    act: Act<'_>,
    tenant: TenantId,
    amount: Credits,
    gives: bool,
) -> Result<(), OperationError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    let wallet = ledger::store::lock_wallet(&mut transaction, tenant).await?;
    let wallet = wallet.ok_or(OperationError::NoTenant)?;
    let reference = GrantId::new();
    let (debit, credit) = if gives {
        ledger::store::insert_adjustment(&mut transaction, tenant, reference, amount).await?;
        (Account::Adjust, Account::Available)
    } else {
        let lots = ledger::store::lock_lots(&mut transaction, tenant).await?;
        let available = wallet.available;
        let shares = ledger::burn(&lots, amount).ok_or(OperationError::TooMuch { available })?;
        ledger::store::forfeit_lots(&mut transaction, &shares).await?;
        (Account::Available, Account::Adjust)
    };
    let transfer = Transfer {
        cause: Cause::Adjust,
        debit,
        credit,
        amount,
        reference: reference.0.to_string(),
    };
    ledger::store::post(&mut transaction, tenant, &transfer).await?;
    let signed = if gives {
        amount.get()
    } else {
        amount.get().saturating_neg()
    };
    let subject = json!({ "tenant": tenant, "credits": signed, "transfer": reference.0 });
    store::record(&mut transaction, act, "adjust", &subject).await?;
    Ok(transaction.commit().await?)
}

/// Ends an open job; everything held goes back.
pub async fn cancel(pool: &PgPool, act: Act<'_>, job: &Job) -> Result<Outcome, OperationError> {
    if job.state.is_terminal() {
        return Ok(Outcome::skipped(
            job,
            format!("it has {} already", job.state.as_str()),
        ));
    }
    let subject = json!({ "job": job.id, "tenant": job.tenant });
    record(pool, act, "cancel", &subject).await?;
    let request = once("cancel", job.id);
    let answer = |job: &Job| answer(200, None, job.id);
    let canceled = settlement::cancel(pool, job.tenant, job.id, &request, answer).await?;
    let skipped = match canceled {
        Cancellation::Canceled(_) => None,
        Cancellation::Already(state) => Some(format!("it has {} already", state.as_str())),
        Cancellation::Repeated(_) | Cancellation::KeyReused => {
            Some("it was canceled before".to_owned())
        }
        Cancellation::Nothing => Some("there is no such job".to_owned()),
    };
    Ok(Outcome {
        job: job.id,
        new: None,
        skipped,
    })
}

/// Does a job that ended without a picture once more: a new one, at today's price, charged only if it delivers. Once.
pub async fn redrive(
    pool: &PgPool,
    bucket: &Bucket,
    catalog: &Catalog,
    act: Act<'_>,
    old: &Job,
) -> Result<Outcome, OperationError> {
    let skip = |why: String| Ok(Outcome::skipped(old, why));
    if !matches!(old.state, State::Failed | State::Expired) {
        return skip(format!("it has {}", old.state.as_str()));
    }
    let mut transaction = database::begin_for(pool, old.tenant).await?;
    let redriven = store::redriven(&mut transaction, old.id).await?;
    let generation = job::store::request(&mut transaction, old.id).await?;
    transaction.commit().await?;
    if let Some(new) = redriven {
        return Ok(Outcome {
            job: old.id,
            new: Some(new),
            skipped: Some("it was done once more before".to_owned()),
        });
    }
    let Some(mut generation) = generation else {
        return skip("its prompt was deleted when its time was over".to_owned());
    };
    let quote = match catalog.quote(&old.model, &generation, clock::now().date()) {
        Ok(quote) => quote,
        Err(not_offered) => return skip(not_offered.to_string()),
    };
    let id = JobId::new();
    if !copy_inputs(pool, bucket, old.tenant, id, &mut generation).await? {
        return skip("its inputs were deleted".to_owned());
    }
    let subject = json!({ "job": old.id, "new": id, "tenant": old.tenant });
    record(pool, act, "redrive", &subject).await?;
    let admission = Admission {
        tenant: old.tenant,
        idempotency: once("redrive", old.id),
        job: id,
        model: old.model.clone(),
        name: old.name.clone(),
        metadata: old.metadata.clone(),
        request_id: old.request_id.clone(),
        traceparent: None,
        generation,
        quote,
        priority: old.priority,
        run_at: None,
        cancel_after: OPEN_FOR,
        fallback: old.fallback,
        switched_from: None,
        redrive_of: Some(old.id),
    };
    let location = format!("/v1/jobs/{id}");
    let admitted = admission::admit(pool, &admission, |job| answer(202, Some(location), job.id));
    let new = match admitted.await {
        Ok(Admitted::New { job, .. }) => job.id,
        Ok(Admitted::Repeated(_)) => return skip("it was done once more before".to_owned()),
        Err(Refusal::Database(error)) => return Err(error.into()),
        Err(refusal) => return skip(refusal.to_string()),
    };
    Ok(Outcome {
        job: old.id,
        new: Some(new),
        skipped: None,
    })
}

/// Before something is done in another procedure's transaction.
async fn record(pool: &PgPool, act: Act<'_>, action: &str, subject: &Value) -> sqlx::Result<()> {
    let mut transaction = pool.begin().await?;
    store::record(&mut transaction, act, action, subject).await?;
    transaction.commit().await
}

/// Inputs belong to their job, and go with it. `false`: they are gone.
async fn copy_inputs(
    pool: &PgPool,
    bucket: &Bucket,
    tenant: TenantId,
    job: JobId,
    generation: &mut Generation,
) -> Result<bool, OperationError> {
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
        input.object_key = input_key(tenant, job, index);
        bucket.put_new(&input.object_key, bytes).await?;
    }
    // What was put into another's bucket would be lost.
    ownership::must_be_usable(pool, bucket).await?;
    Ok(true)
}

/// A key no tenant can send, for it has a space in it: repeated, it is the same act.
fn once(action: &str, job: JobId) -> idempotency::Request {
    idempotency::Request {
        key: format!("operator {action} {job}"),
        hash: idempotency::request_hash(action, &job.to_string(), b""),
    }
}

fn answer(status: u16, location: Option<String>, job: JobId) -> Answer {
    Answer {
        status,
        location,
        body: json!({ "id": job }).to_string().into_bytes(),
    }
}

/// Something that happened to a job.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Event {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// `job`, `call`, `transfer`, `artifact`, `deletion`, `operator`.
    pub of: String,
    /// What, in words.
    pub what: String,
    #[schema(value_type = Option<String>)]
    pub id: Option<Uuid>,
}

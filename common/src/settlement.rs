//! Settlement: the one transaction that ends a job. Artifacts, credits and state change together.
//!
//! Several processes may try to end the same job at once. The lock on the job's row lets exactly
//! one of them win. A worker may end the job only with the fence it claimed it with. Callers
//! without a lease (the tenant, an operator, the deadline, the reaper) may end it only while it is
//! open. All others learn how the job ended and change nothing.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::wildcard_enum_match_arm
)]

use std::time::Duration;

use serde_json::json;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use crate::failpoint::reach;
use domain::allowance::AllowanceUsage;
use domain::artifact::{self, Artifact};
use domain::credits::{Credits, InvalidCredits};
use domain::id::{JobId, TenantId};
use domain::idempotency::{self, Answer, KeyUse};
use domain::job::{Job, State};
use domain::ledger::{self, Hold};
use domain::operator::Actor;
use domain::outcome::{Class, Failure};
use storage::database::row::RowId;
use storage::database::{self, UnexpectedRowCount};
use storage::jobs::{End, Requeue};

/// Expired leases of one job after which it fails as poison. Without a limit, a job that kills its
/// worker would kill one worker after the other.
const MAX_CRASHES: i32 = 3;

/// The right of one attempt to end its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The tenant that owns the job.
    pub tenant: TenantId,
    /// The job.
    pub job: JobId,
    /// Number of the attempt. The lease is over when the job's row has a higher number.
    pub fence: i32,
}

/// Result of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// This settlement ended the job, in this state.
    Ended(State),
    /// The job went back to the queue.
    Requeued,
    /// The deadline was moved, because calls have begun and the owner's cancel allowance is used
    /// up.
    Extended,
    /// The job had already ended, in this state. Nothing changed.
    AlreadyEnded(State),
    /// Another attempt holds the job. Nothing changed.
    Fenced,
    /// There is no such job, or there is no longer a reason to change it.
    NotFound,
}

/// Why a settlement failed. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum SettlementError {
    /// The amount to capture is above the hold, or cannot be computed.
    #[error(transparent)]
    Amount(#[from] InvalidCredits),
    /// The job's shares in its lots are smaller than the amount to capture. The ledger is
    /// inconsistent: run `platen verify`.
    #[error("job {0} holds less in its lots than it must capture: run `platen verify`")]
    SharesDoNotCover(JobId),
    /// The job's row was not in the state that the lock showed.
    #[error(transparent)]
    UnexpectedRowCount(#[from] UnexpectedRowCount),
    /// Postgres failed. If the connection broke during the commit, the job may have ended all the
    /// same. A second try then returns [`Settled::AlreadyEnded`].
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl database::PostgresError for SettlementError {
    fn postgres(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::Amount(_) | Self::SharesDoNotCover(_) | Self::UnexpectedRowCount(_) => None,
        }
    }
}

/// Ends a job that delivered at least one output: captures the price of the delivered outputs and
/// releases the rest of the hold. `artifacts` are the stored files, and each rendition among them
/// is one delivered output. `shortfall` says why outputs are missing; `None` if none is.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be settled. Nothing is written in that case, and
/// the worker may try again while it holds the lease.
pub async fn deliver(
    pool: &PgPool,
    lease: Lease,
    artifacts: &[Artifact],
    shortfall: Option<&Failure>,
) -> Result<Settled, SettlementError> {
    let (mut transaction, job) = match lock_leased(pool, lease).await? {
        Ok(locked) => locked,
        Err(settled) => return Ok(settled),
    };
    for artifact in artifacts {
        storage::artifacts::insert(&mut transaction, lease.tenant, lease.fence, artifact).await?;
    }
    // Originals and thumbnails are extra files of the same output and are not charged.
    let delivered = artifacts
        .iter()
        .filter(|artifact| artifact.kind == artifact::ArtifactKind::Rendition)
        .count();
    let outcome = shortfall.map_or(Class::Ok, |failure| failure.class);
    let reason = shortfall.map_or_else(|| Class::Ok.customer_message(), Failure::customer_message);
    let end = JobEnd {
        state: None,
        delivered: RowId::new("jobs", lease.job).convert("n_delivered", delivered)?,
        outcome,
        reason,
    };
    end_and_commit((transaction, job), end).await
}

/// Ends a job that delivered nothing: the job fails, and the whole hold is released.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be settled. Nothing is written in that case.
pub async fn give_up(
    pool: &PgPool,
    lease: Lease,
    failure: &Failure,
) -> Result<Settled, SettlementError> {
    match lock_leased(pool, lease).await? {
        Ok(locked) => {
            end_and_commit(
                locked,
                JobEnd {
                    state: Some(State::Failed),
                    delivered: 0,
                    outcome: failure.class,
                    reason: failure.customer_message(),
                },
            )
            .await
        }
        Err(settled) => Ok(settled),
    }
}

/// Puts a job back into the queue for another attempt after `delay`, with the outcome of this
/// attempt. The hold stays.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be requeued. The lease then stays until it
/// expires, and the reaper requeues the job.
pub async fn retry(
    pool: &PgPool,
    lease: Lease,
    delay: Duration,
    failure: &Failure,
) -> Result<Settled, SettlementError> {
    let outcome = Some((failure.class, failure.customer_message()));
    requeue(pool, lease, delay, outcome).await
}

/// Puts a job back into the queue without an outcome, because nothing failed: its lanes are
/// unavailable, or a provider still works on it.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be requeued. The lease then stays until it
/// expires, and the reaper requeues the job.
pub async fn put_back(
    pool: &PgPool,
    lease: Lease,
    delay: Duration,
) -> Result<Settled, SettlementError> {
    requeue(pool, lease, delay, None).await
}

/// Requeues a job. No credits move, so the wallet is not locked, and the workers of one tenant do
/// not wait for each other. The fence in the UPDATE is enough to stop a worker that lost its lease.
async fn requeue(
    pool: &PgPool,
    lease: Lease,
    delay: Duration,
    outcome: Option<(Class, &str)>,
) -> Result<Settled, SettlementError> {
    let mut transaction = database::begin_for(pool, lease.tenant).await?;
    let requeued = storage::jobs::requeue(
        &mut transaction,
        &Requeue {
            id: lease.job,
            fence: lease.fence,
            delay,
            crashed: false,
            outcome,
        },
    )
    .await?;
    if requeued.is_ok() {
        reach("requeue:before_commit").await?;
        transaction.commit().await?;
        reach("requeue:after_commit").await?;
        return Ok(Settled::Requeued);
    }
    // The UPDATE matched no row. This read only finds the reason to report.
    Ok(
        match storage::jobs::get(&mut transaction, lease.job).await? {
            None => Settled::NotFound,
            Some(job) if job.state.is_terminal() => Settled::AlreadyEnded(job.state),
            Some(_) => Settled::Fenced,
        },
    )
}

/// Result of a request to cancel a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancellation {
    /// The job is canceled, by this request or by an earlier one. The answer is stored for
    /// repetitions.
    Canceled(Answer),
    /// The idempotency key was used before, for the same request. This is the answer that request
    /// got.
    Repeated(Answer),
    /// The idempotency key belongs to another request.
    KeyReused,
    /// The job had already ended in this state. An owner gets this only for states other than
    /// [`State::Canceled`]; an operator gets it for every state.
    AlreadyEnded(State),
    /// Calls of the job have begun, and the owner's cancel allowance is used up.
    AllowanceUsed(AllowanceUsage),
    /// There is no such job.
    NotFound,
}

/// Who cancels a job.
#[derive(Clone, Copy, Debug)]
pub enum Canceler<'a> {
    /// The tenant that owns the job.
    Owner {
        /// Calls that the tenant may abandon in an hour ([`domain::allowance`]).
        allowance: u32,
    },
    /// An operator. The allowance does not apply, and the action is recorded.
    Operator(Actor<'a>),
}

/// Cancels an open job and releases its hold. `answer` builds the reply from the canceled job's
/// row; the reply is stored under the idempotency key.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be settled. Nothing is written in that case.
pub async fn cancel(
    pool: &PgPool,
    canceler: Canceler<'_>,
    (tenant, id): (TenantId, JobId),
    request: &idempotency::Request,
    answer: impl FnOnce(&Job) -> Answer,
) -> Result<Cancellation, SettlementError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    let Some(mut job) = lock_wallet_and_job(&mut transaction, tenant, id).await? else {
        return Ok(Cancellation::NotFound);
    };
    match storage::idempotency::find(&mut transaction, tenant, request).await? {
        Some(KeyUse::Answered(answer)) => return Ok(Cancellation::Repeated(answer)),
        Some(KeyUse::AnotherRequest) => return Ok(Cancellation::KeyReused),
        None => {}
    }
    if job.state.is_terminal() {
        // An owner may cancel twice: the second request succeeds, because the job is canceled
        // already. An operator is told that the job had ended, because no audit entry is written
        // for the second request.
        let is_fulfilled =
            job.state == State::Canceled && matches!(canceler, Canceler::Owner { .. });
        if !is_fulfilled {
            return Ok(Cancellation::AlreadyEnded(job.state));
        }
    } else {
        match canceler {
            Canceler::Owner { allowance } => {
                if let Err(used) = count_abandoned_calls(&mut transaction, &job, allowance).await? {
                    return Ok(Cancellation::AllowanceUsed(used));
                }
            }
            Canceler::Operator(actor) => {
                let subject = json!({ "job": id, "tenant": tenant });
                storage::operators::record(&mut transaction, actor, "cancel", &subject).await?;
            }
        }
        end(
            &mut transaction,
            &job,
            JobEnd::without_delivery(State::Canceled, Class::Canceled),
        )
        .await?;
        job = storage::jobs::get(&mut transaction, id)
            .await?
            .ok_or(sqlx::Error::RowNotFound)?;
    }
    let answer = answer(&job);
    storage::idempotency::keep(&mut transaction, tenant, request, &answer).await?;
    reach("cancel:before_commit").await?;
    transaction.commit().await?;
    reach("cancel:after_commit").await?;
    Ok(Cancellation::Canceled(answer))
}

/// Counts the calls that the owner abandons by ending this job. Returns what the tenant has used,
/// and counts nothing, if the allowance does not cover them.
///
/// The caller holds the wallet's lock, so two cancellations cannot both use the last call of the
/// allowance.
async fn count_abandoned_calls(
    connection: &mut PgConnection,
    job: &Job,
    allowance: u32,
) -> sqlx::Result<Result<(), AllowanceUsage>> {
    let begun = storage::allowances::count_begun_calls(connection, &[job.id]).await?;
    let Some(&begun) = begun.get(&job.id) else {
        return Ok(Ok(()));
    };
    let used = storage::allowances::used(connection, job.tenant).await?;
    if !used.allows(begun, allowance) {
        return Ok(Err(used));
    }
    storage::allowances::abandon(connection, job.id).await?;
    Ok(Ok(()))
}

/// Ends an open job whose deadline has passed, and releases its hold.
///
/// If calls have begun and the owner's `allowance` does not cover them, the deadline is moved
/// instead, once, by `more(model)`. The job then delivers what the calls make, and is charged for
/// it. Without this rule, a tenant could use short deadlines to cancel without limit.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be settled. Nothing is written in that case, and
/// the next run of the task tries again.
pub async fn expire(
    pool: &PgPool,
    (tenant, id): (TenantId, JobId),
    allowance: u32,
    more: impl FnOnce(&str) -> Duration,
) -> Result<Settled, SettlementError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    let Some(job) = lock_wallet_and_job(&mut transaction, tenant, id).await? else {
        return Ok(Settled::NotFound);
    };
    if job.state.is_terminal() {
        return Ok(Settled::AlreadyEnded(job.state));
    }
    // `extend` moves a deadline only once. The second time the job expires although the allowance
    // is used up, so a provider that never answers cannot keep it open.
    if count_abandoned_calls(&mut transaction, &job, allowance)
        .await?
        .is_err()
        && storage::jobs::extend(&mut transaction, id, more(&job.model)).await?
    {
        transaction.commit().await?;
        return Ok(Settled::Extended);
    }
    end_and_commit(
        (transaction, job),
        JobEnd::without_delivery(State::Expired, Class::Expired),
    )
    .await
}

/// Takes a job from a worker whose lease has expired. The job goes back to the queue, or fails as
/// poison after [`MAX_CRASHES`] expired leases.
///
/// # Errors
/// Returns a [`SettlementError`] if the job cannot be settled. Nothing is written in that case, and
/// the next run of the reaper tries again.
pub async fn reap(pool: &PgPool, tenant: TenantId, id: JobId) -> Result<Settled, SettlementError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    let Some(job) = lock_wallet_and_job(&mut transaction, tenant, id).await? else {
        return Ok(Settled::NotFound);
    };
    // Checked again under the lock: the worker may have renewed its lease or settled the job since
    // the reaper listed it.
    if job.state != State::Running
        || !storage::jobs::lease_has_expired(&mut transaction, id).await?
    {
        return Ok(Settled::NotFound);
    }
    if job.crash_count.saturating_add(1) >= MAX_CRASHES {
        let end = JobEnd::without_delivery(State::Failed, Class::Poison);
        return end_and_commit((transaction, job), end).await;
    }
    storage::jobs::requeue(
        &mut transaction,
        &Requeue {
            id,
            fence: job.fence,
            delay: Duration::ZERO,
            crashed: true,
            outcome: None,
        },
    )
    .await??;
    reach("reap:before_commit").await?;
    transaction.commit().await?;
    reach("reap:after_commit").await?;
    Ok(Settled::Requeued)
}

/// An open transaction, and the job whose row and wallet it has locked.
type LockedJob = (Transaction<'static, Postgres>, Job);

/// Locks the wallet and the job, and checks that the lease is still valid. If it is not, the inner
/// error says what happened to the job.
async fn lock_leased(
    pool: &PgPool,
    lease: Lease,
) -> Result<Result<LockedJob, Settled>, SettlementError> {
    let mut transaction = database::begin_for(pool, lease.tenant).await?;
    let Some(job) = lock_wallet_and_job(&mut transaction, lease.tenant, lease.job).await? else {
        return Ok(Err(Settled::NotFound));
    };
    if job.state.is_terminal() {
        return Ok(Err(Settled::AlreadyEnded(job.state)));
    }
    // An expired lease may still settle as long as nobody has claimed or requeued the job: its work
    // is done and paid for. Only the fence decides, not the time.
    if job.state != State::Running || job.fence != lease.fence {
        return Ok(Err(Settled::Fenced));
    }
    Ok(Ok((transaction, job)))
}

/// Locks the wallet first and the job second. Every transaction that moves credits keeps this
/// order, so no two of them can deadlock. `None` if the tenant has no wallet or no such job.
async fn lock_wallet_and_job(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: JobId,
) -> sqlx::Result<Option<Job>> {
    if storage::ledger::lock_wallet(connection, tenant)
        .await?
        .is_none()
    {
        return Ok(None);
    }
    Ok(storage::jobs::lock(connection, id)
        .await?
        .filter(|job| job.tenant == tenant))
}

/// The `reason` that the tenant reads: why the job ended, and what was delivered and charged.
fn full_reason(job: &Job, delivered: i32, captured: Credits, why: &str) -> String {
    if delivered == 0 {
        format!("{why} Nothing was charged.")
    } else if delivered == job.n_requested {
        why.to_owned()
    } else {
        let requested = job.n_requested;
        format!(
            "{delivered} of {requested} images were delivered, for {captured}. Of the rest: {why}"
        )
    }
}

/// How a job is to end.
struct JobEnd<'a> {
    /// The final state. With `None`, the number of delivered outputs decides between succeeded,
    /// partial and failed.
    state: Option<State>,
    /// Delivered outputs.
    delivered: i32,
    /// Class of the outcome.
    outcome: Class,
    /// Why the job ended, in the words of [`Class::customer_message`], without what was charged.
    reason: &'a str,
}

impl JobEnd<'static> {
    /// An end without a delivered output. The reason is the message of the class.
    fn without_delivery(state: State, outcome: Class) -> Self {
        Self {
            state: Some(state),
            delivered: 0,
            outcome,
            reason: outcome.customer_message(),
        }
    }
}

/// Ends the locked job and commits.
async fn end_and_commit(
    (mut transaction, job): LockedJob,
    job_end: JobEnd<'_>,
) -> Result<Settled, SettlementError> {
    let state = end(&mut transaction, &job, job_end).await?;
    reach("settlement:before_commit").await?;
    transaction.commit().await?;
    reach("settlement:after_commit").await?;
    Ok(Settled::Ended(state))
}

/// Ends the locked, open job: resolves the hold, writes the end into the job's row, ends the calls
/// that are still open, and plans when the job's files are deleted. Returns the final state.
///
/// The order is fixed. Grants are locked after the wallet and the job. The calls end after the job,
/// because every transaction locks a job before its calls.
async fn end(
    connection: &mut PgConnection,
    job: &Job,
    job_end: JobEnd<'_>,
) -> Result<State, SettlementError> {
    let delivered = RowId::new("jobs", job.id).convert("n_delivered", job_end.delivered)?;
    // The price on the job's row, not today's price: the hold was made with it.
    let captured = job.cost.unit_price.times(delivered)?;
    let resolution = Hold {
        job: job.id,
        amount: job.cost.held,
    }
    .resolve(captured)?;
    // The captured credits are taken from the lots in burn-down order, as the hold was. The rest
    // goes back to the lots it came from, so credits keep their expiry.
    let shares = storage::ledger::lock_shares(connection, job.id).await?;
    let consumed =
        ledger::consume(&shares, captured).ok_or(SettlementError::SharesDoNotCover(job.id))?;
    storage::ledger::resolve_shares(connection, &shares, &consumed).await?;
    for transfer in resolution.transfers() {
        storage::ledger::post(connection, job.tenant, &transfer).await?;
    }
    let state = job_end.state.unwrap_or(match job_end.delivered {
        0 => State::Failed,
        some if some < job.n_requested => State::Partial,
        _ => State::Succeeded,
    });
    let row = End {
        id: job.id,
        state,
        outcome: job_end.outcome,
        reason: &full_reason(job, job_end.delivered, captured, job_end.reason),
        delivered: job_end.delivered,
        captured,
        released: resolution.released,
    };
    // Fails if the row is terminal in spite of the lock, and rolls the credits back with it.
    storage::jobs::end(connection, &row).await??;
    storage::calls::abandon(connection, job.id).await?;
    storage::uploads::touch_all_of(connection, job.id).await?;
    storage::retention::plan(connection, job.tenant, job.id).await?;
    Ok(state)
}

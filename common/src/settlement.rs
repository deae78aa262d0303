//! Settlement: the one transaction in which a job ends. Artifacts, credits and state change together.
//!
//! Exactly one settlement wins, by the job's row lock: a worker needs the fence it claimed with, an authority
//! without a lease (the tenant, the deadline, the reaper) needs the job to be open. Everybody else is told who
//! was first and changes nothing.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::wildcard_enum_match_arm
)]

use std::time::Duration;

use serde_json::json;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use crate::failpoint::reach;
use domain::allowance::Used;
use domain::artifact::{self, Artifact};
use domain::credits::{Credits, InvalidCredits};
use domain::id::{JobId, TenantId};
use domain::idempotency::{self, Answer, Known};
use domain::job::{Job, State};
use domain::ledger::{self, Hold};
use domain::operator::Actor;
use domain::outcome::{Class, Failure};
use storage::database::row::RowId;
use storage::database::{self, NotOneRow};
use storage::jobs::{End, Requeue};

/// Leases of one job that may run out before it is given up as poison.
const MAX_CRASHES: i32 = 3;

/// The right of one attempt to end its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub tenant: TenantId,
    pub job: JobId,
    pub fence: i32,
}

/// What a settlement came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The job ended now, like this.
    Ended(State),
    /// The job went back to the queue.
    Requeued,
    /// Its deadline was moved: its calls have begun, and its owner has abandoned as many as allowed.
    Extended,
    /// Someone else ended it before, like this.
    Already(State),
    /// Another attempt holds the job.
    Fenced,
    /// There is no such job, or no longer a reason to touch it.
    Nothing,
}

/// Why a settlement could not be made. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum SettlementError {
    #[error(transparent)]
    Amount(#[from] InvalidCredits),
    #[error("the shares of job {0} do not cover what it captures")]
    SharesDoNotCover(JobId),
    #[error(transparent)]
    NotOneRow(#[from] NotOneRow),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl database::PostgresError for SettlementError {
    fn postgres(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::Amount(_) | Self::SharesDoNotCover(_) | Self::NotOneRow(_) => None,
        }
    }
}

/// Ends a job that delivered: charges for what is there, releases the rest. `shortfall` says why some is missing.
pub async fn deliver(
    pool: &PgPool,
    lease: Lease,
    artifacts: &[Artifact],
    shortfall: Option<&Failure>,
) -> Result<Settled, SettlementError> {
    let (mut transaction, job) = match open(pool, lease).await? {
        Ok(opened) => opened,
        Err(settled) => return Ok(settled),
    };
    for artifact in artifacts {
        storage::artifacts::insert(&mut transaction, lease.tenant, lease.fence, artifact).await?;
    }
    let delivered = artifacts
        .iter()
        .filter(|artifact| artifact.kind == artifact::ArtifactKind::Rendition)
        .count();
    let outcome = shortfall.map_or(Class::Ok, |failure| failure.class);
    let reason = shortfall.map_or_else(|| Class::Ok.plain_words(), Failure::plain_words);
    let ending = Ending {
        state: None,
        delivered: RowId::new("jobs", lease.job).fits("n_delivered", delivered)?,
        outcome,
        reason,
    };
    finish((transaction, job), ending).await
}

/// Ends a job that delivered nothing: everything held goes back.
pub async fn give_up(
    pool: &PgPool,
    lease: Lease,
    failure: &Failure,
) -> Result<Settled, SettlementError> {
    match open(pool, lease).await? {
        Ok(opened) => {
            finish(
                opened,
                Ending {
                    state: Some(State::Failed),
                    delivered: 0,
                    outcome: failure.class,
                    reason: failure.plain_words(),
                },
            )
            .await
        }
        Err(settled) => Ok(settled),
    }
}

/// Gives a job back to the queue for another attempt after `delay`; its hold stays.
pub async fn retry(
    pool: &PgPool,
    lease: Lease,
    delay: Duration,
    failure: &Failure,
) -> Result<Settled, SettlementError> {
    let outcome = Some((failure.class, failure.plain_words()));
    requeue(pool, lease, delay, outcome).await
}

/// Gives a job back to the queue without an outcome: its lanes are closed, or a provider still works on it.
pub async fn put_back(
    pool: &PgPool,
    lease: Lease,
    delay: Duration,
) -> Result<Settled, SettlementError> {
    requeue(pool, lease, delay, None).await
}

/// No money moves, so the tenant's wallet is not locked: many workers may do this at once.
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
    Ok(
        match storage::jobs::get(&mut transaction, lease.job).await? {
            None => Settled::Nothing,
            Some(job) if job.state.is_terminal() => Settled::Already(job.state),
            Some(_) => Settled::Fenced,
        },
    )
}

/// What a request to cancel came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancellation {
    /// The job is canceled, now or before; the answer is kept for whoever repeats the request.
    Canceled(Answer),
    /// The answer this key was given before.
    Repeated(Answer),
    /// The key was used for another request.
    KeyReused,
    /// It had ended before; for its owner: otherwise.
    Already(State),
    /// Its calls have begun, and its owner may abandon no more of them for a while.
    AllowanceUsed(Used),
    /// There is no such job.
    Nothing,
}

/// Who cancels a job.
#[derive(Clone, Copy, Debug)]
pub enum Canceler<'a> {
    /// Its owner, who may abandon so many calls an hour ([`domain::allowance`]).
    Owner { allowance: u32 },
    /// An operator, who is not bound by that. The act is kept with what it does.
    Operator(Actor<'a>),
}

/// Ends an open job because its owner or an operator wants so. `answer` makes the reply from the canceled job's row.
pub async fn cancel(
    pool: &PgPool,
    canceler: Canceler<'_>,
    (tenant, id): (TenantId, JobId),
    request: &idempotency::Request,
    answer: impl FnOnce(&Job) -> Answer,
) -> Result<Cancellation, SettlementError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    let Some(mut job) = lock(&mut transaction, tenant, id).await? else {
        return Ok(Cancellation::Nothing);
    };
    match storage::idempotency::find(&mut transaction, tenant, request).await? {
        Some(Known::Answered(answer)) => return Ok(Cancellation::Repeated(answer)),
        Some(Known::AnotherRequest) => return Ok(Cancellation::KeyReused),
        None => {}
    }
    if job.state.is_terminal() {
        let again = job.state == State::Canceled && matches!(canceler, Canceler::Owner { .. });
        if !again {
            return Ok(Cancellation::Already(job.state));
        }
    } else {
        match canceler {
            Canceler::Owner { allowance } => {
                if let Err(used) = abandon(&mut transaction, &job, allowance).await? {
                    return Ok(Cancellation::AllowanceUsed(used));
                }
            }
            Canceler::Operator(act) => {
                let subject = json!({ "job": id, "tenant": tenant });
                storage::operators::record(&mut transaction, act, "cancel", &subject).await?;
            }
        }
        end(
            &mut transaction,
            &job,
            Ending::empty(State::Canceled, Class::Canceled),
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

/// Counts the calls that an owner abandons by ending its job, or tells what it has used of its allowance and counts nothing. Under the
/// wallet's lock, so that no two use the same rest.
async fn abandon(
    connection: &mut PgConnection,
    job: &Job,
    allowance: u32,
) -> sqlx::Result<Result<(), Used>> {
    let begun = storage::allowances::begun(connection, &[job.id]).await?;
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

/// Ends an open job whose deadline has passed. Where its owner may not abandon the calls that have begun, the deadline is moved by
/// `more` instead, once: what they make is delivered and charged.
pub async fn expire(
    pool: &PgPool,
    (tenant, id): (TenantId, JobId),
    allowance: u32,
    more: impl FnOnce(&str) -> Duration,
) -> Result<Settled, SettlementError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    let Some(job) = lock(&mut transaction, tenant, id).await? else {
        return Ok(Settled::Nothing);
    };
    if job.state.is_terminal() {
        return Ok(Settled::Already(job.state));
    }
    if abandon(&mut transaction, &job, allowance).await?.is_err()
        && storage::jobs::extend(&mut transaction, id, more(&job.model)).await?
    {
        transaction.commit().await?;
        return Ok(Settled::Extended);
    }
    finish(
        (transaction, job),
        Ending::empty(State::Expired, Class::Expired),
    )
    .await
}

/// Takes a job from a worker whose lease ran out: back to the queue, or given up when that keeps happening.
pub async fn reap(pool: &PgPool, tenant: TenantId, id: JobId) -> Result<Settled, SettlementError> {
    let mut transaction = database::begin_for(pool, tenant).await?;
    let Some(job) = lock(&mut transaction, tenant, id).await? else {
        return Ok(Settled::Nothing);
    };
    // Asked again under the lock: the worker may have renewed or settled meanwhile.
    if job.state != State::Running
        || !storage::jobs::lease_has_run_out(&mut transaction, id).await?
    {
        return Ok(Settled::Nothing);
    }
    if job.crash_count.saturating_add(1) >= MAX_CRASHES {
        let ending = Ending::empty(State::Failed, Class::Poison);
        return finish((transaction, job), ending).await;
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

type Opened = (Transaction<'static, Postgres>, Job);

/// Locks wallet and job, in this order, and checks that the lease still stands.
async fn open(pool: &PgPool, lease: Lease) -> Result<Result<Opened, Settled>, SettlementError> {
    let mut transaction = database::begin_for(pool, lease.tenant).await?;
    let Some(job) = lock(&mut transaction, lease.tenant, lease.job).await? else {
        return Ok(Err(Settled::Nothing));
    };
    if job.state.is_terminal() {
        return Ok(Err(Settled::Already(job.state)));
    }
    if job.state != State::Running || job.fence != lease.fence {
        return Ok(Err(Settled::Fenced));
    }
    Ok(Ok((transaction, job)))
}

async fn lock(
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

/// Why the job ended, and what that came to, in the words the tenant reads.
fn told(job: &Job, delivered: i32, captured: Credits, why: &str) -> String {
    if delivered == 0 {
        format!("{why} Nothing was charged.")
    } else if delivered == job.n_requested {
        why.to_owned()
    } else {
        let asked = job.n_requested;
        format!(
            "{delivered} of {asked} pictures were delivered, for {captured}. Of the rest: {why}"
        )
    }
}

struct Ending<'a> {
    /// `None`: as the delivery says.
    state: Option<State>,
    delivered: i32,
    outcome: Class,
    reason: &'a str,
}

impl Ending<'static> {
    /// With nothing delivered and no more to say than its class.
    fn empty(state: State, outcome: Class) -> Self {
        Self {
            state: Some(state),
            delivered: 0,
            outcome,
            reason: outcome.plain_words(),
        }
    }
}

async fn finish(
    (mut transaction, job): Opened,
    ending: Ending<'_>,
) -> Result<Settled, SettlementError> {
    let state = end(&mut transaction, &job, ending).await?;
    reach("settlement:before_commit").await?;
    transaction.commit().await?;
    reach("settlement:after_commit").await?;
    Ok(Settled::Ended(state))
}

/// Resolves the hold and ends the locked, open job, and with it the calls nobody will hear of any more; plans what is due
/// to be deleted of it.
async fn end(
    connection: &mut PgConnection,
    job: &Job,
    ending: Ending<'_>,
) -> Result<State, SettlementError> {
    let delivered = RowId::new("jobs", job.id).fits("n_delivered", ending.delivered)?;
    let captured = job.cost.unit_price.times(delivered)?;
    let resolution = Hold {
        job: job.id,
        amount: job.cost.held,
    }
    .resolve(captured)?;
    let shares = storage::ledger::lock_shares(connection, job.id).await?;
    let consumed =
        ledger::consume(&shares, captured).ok_or(SettlementError::SharesDoNotCover(job.id))?;
    storage::ledger::resolve_shares(connection, &shares, &consumed).await?;
    for transfer in resolution.transfers() {
        storage::ledger::post(connection, job.tenant, &transfer).await?;
    }
    let state = ending.state.unwrap_or(match ending.delivered {
        0 => State::Failed,
        some if some < job.n_requested => State::Partial,
        _ => State::Succeeded,
    });
    let row = End {
        id: job.id,
        state,
        outcome: ending.outcome,
        reason: &told(job, ending.delivered, captured, ending.reason),
        delivered: ending.delivered,
        captured,
        released: resolution.released,
    };
    storage::jobs::end(connection, &row).await??;
    storage::calls::abandon(connection, job.id).await?;
    storage::uploads::touch_all_of(connection, job.id).await?;
    storage::retention::plan(connection, job.tenant, job.id).await?;
    Ok(state)
}

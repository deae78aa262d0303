//! The tenant or an operator cancels a job.

use serde_json::json;
use sqlx::PgPool;

use super::SettlementError;
use super::abandoned::record_abandoned_calls;
use super::end::{JobEnd, end};
use super::lock::lock_wallet_and_job;
use crate::failpoint::reach;
use domain::allowance::AllowanceUsage;
use domain::id::{JobId, TenantId};
use domain::idempotency::{self, Answer, KeyUse};
use domain::job::{Job, State};
use domain::operator::Actor;
use domain::outcome::Class;

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

/// Cancels an open job and releases its hold. `answer` makes the answer from the canceled job's
/// row. The answer is stored under the idempotency key.
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
    let Some((mut transaction, mut job)) = lock_wallet_and_job(pool, tenant, id).await? else {
        return Ok(Cancellation::NotFound);
    };
    match storage::idempotency::find(&mut transaction, tenant, request).await? {
        Some(KeyUse::Answered(answer)) => return Ok(Cancellation::Repeated(answer)),
        Some(KeyUse::AnotherRequest) => return Ok(Cancellation::KeyReused),
        None => {}
    }
    if job.state.is_terminal() {
        // Canceling twice is no error for an owner: the second request wants what is already so. An
        // operator gets `AlreadyEnded`, because no action of this operator is recorded.
        let is_fulfilled =
            job.state == State::Canceled && matches!(canceler, Canceler::Owner { .. });
        if !is_fulfilled {
            return Ok(Cancellation::AlreadyEnded(job.state));
        }
    } else {
        match canceler {
            Canceler::Owner { allowance } => {
                if let Some(used) =
                    record_abandoned_calls(&mut transaction, &job, allowance).await?
                {
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

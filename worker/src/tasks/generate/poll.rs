//! Poll: a provider's operation is recorded first, then polled until it ends.

use std::time::{Duration, Instant};

use anyhow::Context;
use backon::Retryable;
use domain::outcome::Class;
use storage::database;

use super::attempt::{Attempt, OutputResult, ProviderCall, database_retry_delays};
use super::finish::StoreFailure;
use crate::memory;
use crate::providers::{Answer, Reply};

/// Answers to a poll that cannot be parsed, one after the other, until the operation counts as
/// lost.
const MAX_UNREADABLE_ANSWERS: u32 = 3;

impl Attempt<'_> {
    /// Stores the operation on its call before it is polled, so that any later attempt can poll it.
    ///
    /// # Errors
    ///
    /// Fails when the job has ended meanwhile, and when the database fails.
    pub(super) async fn record_operation(
        &self,
        call: ProviderCall<'_>,
        operation: &str,
    ) -> anyhow::Result<()> {
        let record = || async {
            let mut transaction = database::begin_for(&self.app.pool, self.claimed.tenant).await?;
            let recorded =
                storage::calls::record_operation(&mut transaction, call.id, operation).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(recorded)
        };
        (|| database::with_timeout(record()))
            .retry(database_retry_delays())
            .await?
            .required()
            .context("the job ended before the provider's operation could be stored")
    }

    /// Polls an operation, first after `first_delay`, until it ends or `left` is over; at least
    /// once. An operation that still runs then is left to a later attempt.
    ///
    /// # Errors
    ///
    /// Fails when the bucket or the database fails.
    pub(super) async fn poll_operation(
        &self,
        call: ProviderCall<'_>,
        operation: &str,
        left: Duration,
        first_delay: Duration,
    ) -> anyhow::Result<OutputResult> {
        let until = Instant::now() + left;
        let (min_delay, max_delay) = self.app.timing.poll;
        let mut delay = first_delay;
        let mut unreadable_answers = 0;
        loop {
            let slept = self
                .app
                .stopping
                .run_until_cancelled(tokio::time::sleep(delay));
            if slept.await.is_none() {
                return Ok(OutputResult::HANDED_BACK);
            }
            delay = (delay * 3 / 2).clamp(min_delay, max_delay);
            let timeout = call.model.timeout;
            let _step = self.lease.begin_step(delay + timeout + memory::MAX_WAIT);
            match call.provider.poll(call.lane, operation, timeout).await {
                Ok(Reply::Answered(answer)) => {
                    return self.end(call, answer, StoreFailure::KeepCallOpen).await;
                }
                Ok(Reply::Operation(_)) => unreadable_answers = 0,
                // A poll may fail without any meaning for the operation. Only answers that never
                // become readable end it.
                Err(failure) if failure.class == Class::ProviderInvalid => {
                    unreadable_answers += 1;
                    if unreadable_answers == MAX_UNREADABLE_ANSWERS {
                        let answer = Answer::failed(failure);
                        return self.end(call, answer, StoreFailure::KeepCallOpen).await;
                    }
                    delay = min_delay;
                    continue;
                }
                Err(failure) => {
                    tracing::debug!(call.id = %call.id, outcome = failure.class.as_str(), detail = failure.detail, "The provider could not be polled for an operation");
                }
            }
            if Instant::now() + delay > until {
                return Ok(OutputResult::Pending(max_delay));
            }
        }
    }
}

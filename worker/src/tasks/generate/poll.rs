//! Records a provider's operation, and then polls it until it ends.

use std::time::{Duration, Instant};

use anyhow::Context;
use backon::Retryable;
use domain::outcome::Class;
use storage::database;

use super::attempt::{Attempt, OutputResult, ProviderCall, database_retry_delays};
use super::finish::StoreFailure;
use crate::memory;
use crate::providers::{Answer, Reply};

/// After this many answers that cannot be parsed, with no readable answer between them, an
/// operation counts as failed.
const MAX_UNREADABLE_ANSWERS: u32 = 3;

impl Attempt<'_> {
    /// Stores the operation on its call before it is polled, so that any later attempt can poll it.
    ///
    /// # Errors
    ///
    /// Returns an error if the job has ended meanwhile, or if the database fails.
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

    /// Polls an operation, first after `first_delay`, until it ends or `max_wait` is over. Polls at
    /// least once, unless this worker stops before. An operation that still runs after that is left
    /// to a later attempt.
    ///
    /// # Errors
    ///
    /// Returns an error if the bucket or the database fails.
    pub(super) async fn poll_operation(
        &self,
        call: ProviderCall<'_>,
        operation: &str,
        max_wait: Duration,
        first_delay: Duration,
    ) -> anyhow::Result<OutputResult> {
        let deadline = Instant::now() + max_wait;
        let (min_delay, max_delay) = self.app.timing.poll;
        let mut delay = first_delay;
        let mut unreadable_answers = 0;
        loop {
            let sleep = self
                .app
                .stop_signal
                .run_until_cancelled(tokio::time::sleep(delay));
            if sleep.await.is_none() {
                return Ok(OutputResult::HANDED_OVER);
            }
            delay = (delay * 3 / 2).clamp(min_delay, max_delay);
            let timeout = call.model.timeout;
            let _step = self.lease.begin_step(delay + timeout + memory::MAX_WAIT);
            match call.provider.poll(call.lane, operation, timeout).await {
                Ok(Reply::Answered(answer)) => {
                    return self.end(call, answer, StoreFailure::KeepCallOpen).await;
                }
                Ok(Reply::Operation(_)) => unreadable_answers = 0,
                // A failed poll says nothing about the operation. The operation counts as failed
                // only after several answers that cannot be parsed.
                Err(failure) if failure.class == Class::ProviderInvalid => {
                    unreadable_answers += 1;
                    if unreadable_answers == MAX_UNREADABLE_ANSWERS {
                        let answer = Answer::failed(failure);
                        return self.end(call, answer, StoreFailure::KeepCallOpen).await;
                    }
                    // The next poll follows soon, even if `max_wait` is over.
                    delay = min_delay;
                    continue;
                }
                Err(failure) => {
                    tracing::debug!(call.id = %call.id, outcome = failure.class.as_str(), detail = failure.detail, "An operation could not be polled at its provider; it will be polled again");
                }
            }
            if Instant::now() + delay > deadline {
                return Ok(OutputResult::Pending(max_delay));
            }
        }
    }
}

//! Finds out what became of a call that an earlier attempt began and did not end.

use std::time::Duration;

use domain::call::JournaledCall;
use domain::job::Claimed;
use domain::outcome::{Class, Failure};
use storage::database::{self, GuardedWrite};

use super::attempt::{Attempt, OutputResult};

impl Attempt<'_> {
    /// Adopts the call's original if one was stored. Otherwise polls the call's operation, if there
    /// is one and the catalogue still has the model and the provider. Otherwise the answer is lost,
    /// and the call ends as `unknown`, because the provider may bill it.
    ///
    /// # Errors
    ///
    /// Returns an error if the bucket or the database fails.
    pub(super) async fn reconcile(
        &self,
        journaled: &JournaledCall,
    ) -> anyhow::Result<OutputResult> {
        if let Some(adopted) = self.adopt(journaled).await? {
            return Ok(adopted);
        }
        let id = journaled.id;
        let call = self.call(&journaled.lane, id, journaled.output_idx);
        if let (Some(call), Some(operation)) = (call, &journaled.operation) {
            let max_wait = call.model.timeout.saturating_sub(journaled.age);
            return self
                .poll_operation(call, operation, max_wait, Duration::ZERO)
                .await;
        }
        // The lane gets no result, because the death of our own worker is not the provider's fault.
        self.limiter().release(&journaled.lane, id, None).await;
        let lost = Failure::new(
            Class::Unknown,
            "its worker died before the answer was stored",
        );
        let Claimed { id: job, fence, .. } = *self.claimed;
        let record_lost = async {
            let mut transaction = database::begin_for(&self.app.pool, self.claimed.tenant).await?;
            let recorded =
                storage::calls::record_lost(&mut transaction, job, fence, journaled, &lost).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(recorded)
        };
        Ok(match database::with_timeout(record_lost).await? {
            GuardedWrite::Changed => OutputResult::Missing {
                failure: lost,
                may_retry: true,
            },
            // The call has changed since it was read, as its worker may live. The next attempt
            // reads the journal again.
            GuardedWrite::UnexpectedRowCount(_) => OutputResult::Pending(Duration::ZERO),
        })
    }
}

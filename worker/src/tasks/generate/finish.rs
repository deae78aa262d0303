//! Finishes a call: stores the original of the answer, renders it, ends the call, and reports the
//! result to the lane.
//!
//! The order protects what was paid for. The original is stored before it is rendered, and named on
//! the call only after it was rendered. So a crash in between leaves an original that the next
//! attempt adopts, and never a call whose original cannot be used.

use std::time::Duration;

use backon::Retryable;
use common::failpoint::reach;
use domain::call::Ending;
use domain::catalog::Model;
use domain::id::CallId;
use domain::job::Claimed;
use domain::lanes::CallResult;
use domain::outcome::{Class, Failure};
use domain::stored_file::StoredFile;
use imaging::Rendered;
use storage::database;

use super::attempt::{
    Attempt, BUCKET_RETRY_DELAY, OutputResult, ProviderCall, database_retry_delays,
};
use super::image::{OriginalResult, RenderResult, RenderSource};
use crate::providers::Answer;

/// A provider's record of usage is stored only if its JSON has fewer bytes than this.
const MAX_USAGE_BYTES: usize = 16_384;

/// What to do with a call if its image cannot be stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreFailure {
    /// End the call as failed. The image existed only in memory, so it is lost, together with what
    /// was paid for it.
    LoseCall,
    /// Leave the call open, because the image can be fetched again from the provider or the bucket.
    KeepCallOpen,
}

/// What became of an answer's image.
enum ImageResult {
    /// The original is stored and rendered.
    Usable(StoredFile, Box<Rendered>),
    /// There is no usable image.
    Failed(Failure),
    /// The original could not be stored, but can be fetched again.
    NotStored,
}

impl Attempt<'_> {
    /// Finishes a call that the provider answered, and reports its result to the lane.
    ///
    /// # Errors
    ///
    /// Returns an error if the bucket or the database fails.
    pub(super) async fn end(
        &self,
        call: ProviderCall<'_>,
        answer: Answer,
        store_failure: StoreFailure,
    ) -> anyhow::Result<OutputResult> {
        // A failure is reported at once. A success is reported after the image was rendered,
        // because only then is it known whether the file was an image at all.
        let failed = answer.image.as_ref().err().map(CallResult::from);
        if failed.is_some() {
            self.limiter().release(call.lane, call.id, failed).await;
        }
        let finished = self
            .finish(call.id, call.output_idx, call.model, answer, store_failure)
            .await;
        if failed.is_none() {
            let result = match &finished {
                Ok(OutputResult::Missing { failure, .. }) => CallResult::from(failure),
                // The provider has delivered, even if the bucket or the database failed after that.
                _ => CallResult::OK,
            };
            self.limiter()
                .release(call.lane, call.id, Some(result))
                .await;
        }
        finished
    }

    /// Stores the answer's original under the call's own key, renders it, ends the call and stores
    /// the renditions. A file that is not an image ends the call as a fault of the provider. It is
    /// not named on the call, so that the next attempt buys another image.
    ///
    /// # Errors
    ///
    /// Returns an error if the bucket or the database fails. The call then stays open for the next
    /// attempt.
    pub(super) async fn finish(
        &self,
        call_id: CallId,
        output_idx: i32,
        model: &Model,
        answer: Answer,
        store_failure: StoreFailure,
    ) -> anyhow::Result<OutputResult> {
        let Answer {
            image,
            provider_request_id,
            usage,
            tokens,
        } = answer;
        let image = match image {
            Ok(bytes) => {
                self.store_and_render(call_id, output_idx, model, bytes, store_failure)
                    .await?
            }
            Err(failure) => ImageResult::Failed(self.name_successor(failure)),
        };
        let (original, failure) = match &image {
            ImageResult::Usable(original, _) => (Some(original), None),
            ImageResult::Failed(failure) => (None, Some(failure)),
            ImageResult::NotStored => return Ok(OutputResult::Pending(BUCKET_RETRY_DELAY)),
        };
        let usage = usage.filter(|usage| {
            let json = usage.to_string();
            // Postgres' jsonb refuses NUL characters.
            json.len() < MAX_USAGE_BYTES && !json.contains("\\u0000")
        });
        let outcome = failure.map_or(Class::Ok, |failure| failure.class);
        let delivered_size = failure.is_none().then_some(self.request.size);
        let ending = Ending {
            outcome,
            detail: failure.map(|failure| failure.detail.as_str()),
            reason: failure.and_then(|failure| failure.reason.as_deref()),
            provider_request_id: provider_request_id.as_deref(),
            usage: usage.as_ref(),
            cost_micros: match outcome {
                // The provider may have made and billed an image, so the expected cost stays.
                Class::Unknown | Class::ProviderInvalid | Class::Internal => None,
                _ => model.cost_micros(delivered_size, tokens),
            },
            original,
        };
        reach("generate:after_store").await?;
        let end = || async {
            let Claimed {
                id: job, tenant, ..
            } = *self.claimed;
            reach("end_call:before_commit").await?;
            let ended = storage::calls::end(&self.app.pool, tenant, job, call_id, &ending).await?;
            reach("end_call:after_commit").await?;
            Ok::<_, sqlx::Error>(ended)
        };
        let ended = (|| database::with_timeout(end()))
            .retry(database_retry_delays())
            .await?;
        match image {
            ImageResult::Usable(original, rendered) => {
                self.store(output_idx, original, *rendered).await
            }
            // Another attempt has ended the call before, perhaps with an image. What it wrote
            // stands, and the next attempt reads it.
            ImageResult::Failed(_) if !ended.has_ended => Ok(OutputResult::Pending(Duration::ZERO)),
            ImageResult::Failed(failure) => Ok(OutputResult::Missing {
                failure,
                may_retry: ended.has_calls_left,
            }),
            // This case has returned above, before the call was ended.
            ImageResult::NotStored => Ok(OutputResult::Pending(BUCKET_RETRY_DELAY)),
        }
    }

    /// Stores the original of an answer and renders it.
    ///
    /// # Errors
    ///
    /// Returns an error if a stored original must be read again to be rendered, and cannot be read
    /// or gets no memory in time. The original is not lost: the next attempt adopts it.
    async fn store_and_render(
        &self,
        call_id: CallId,
        output_idx: i32,
        model: &Model,
        bytes: bytes::Bytes,
        store_failure: StoreFailure,
    ) -> anyhow::Result<ImageResult> {
        let stored = self.store_original(call_id, output_idx, model, bytes).await;
        Ok(match stored {
            Ok(OriginalResult::Rendered(original, rendered)) => {
                ImageResult::Usable(original, rendered)
            }
            // There was no memory to render the original at once. Its bytes are dropped by now, so
            // this may wait for memory without holding any.
            Ok(OriginalResult::Stored(original, memory)) => {
                let source = RenderSource::new(&original, memory);
                let rendered = self.render_stored(source, output_idx, &model.id);
                match rendered.await? {
                    RenderResult::Rendered(rendered) => ImageResult::Usable(original, rendered),
                    RenderResult::Unusable(failure) => ImageResult::Failed(failure),
                }
            }
            Ok(OriginalResult::Unusable(failure)) => ImageResult::Failed(failure),
            Err(error) if store_failure == StoreFailure::KeepCallOpen => {
                tracing::warn!(%error, call.id = %call_id, "An image could not be stored; it will be fetched again");
                ImageResult::NotStored
            }
            Err(error) => ImageResult::Failed(Failure::new(
                Class::Internal,
                format!("the original could not be stored: {error}"),
            )),
        })
    }
}

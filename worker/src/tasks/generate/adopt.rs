//! Adopts an original that was stored for an earlier call but is not named on the call's row.

use domain::call::{JournaledCall, original_key};

use super::attempt::{Attempt, OutputResult};
use super::finish::StoreFailure;
use super::image::{RenderResult, RenderSource};
use crate::providers::Answer;

impl Attempt<'_> {
    /// Uses the original under the call's own key for this attempt, whichever attempt paid for it.
    /// Returns `None` if there is no such original, or if the call has ended and its original is
    /// not a usable image.
    ///
    /// # Errors
    ///
    /// Returns an error if the bucket or the database fails.
    pub(super) async fn adopt(
        &self,
        journaled: &JournaledCall,
    ) -> anyhow::Result<Option<OutputResult>> {
        let (id, output_idx) = (journaled.id, journaled.output_idx);
        let key = original_key(self.claimed.tenant, id);
        let Some(mut bytes) = self.fetch_original(&key).await? else {
            return Ok(None);
        };
        // A call that has ended may change only by getting its image. So the file must be a usable
        // image before the call is finished again.
        if journaled.outcome.is_some() {
            let Ok(render_memory) = imaging::memory_to_render(&bytes, &self.request.recipe())
            else {
                return Ok(None);
            };
            let source = RenderSource {
                key: &key,
                file_bytes: bytes.len(),
                render_memory,
            };
            // Rendering waits for memory, and must hold none while it waits.
            drop(bytes);
            let rendered = self.render_stored(source, output_idx, &journaled.lane.model);
            if let RenderResult::Unusable(_) = rendered.await? {
                return Ok(None);
            }
            bytes = match self.fetch_original(&key).await? {
                Some(bytes) => bytes,
                None => return Ok(None),
            };
        }
        tracing::info!(call.id = %id, "Found a stored original; the attempt adopts it");
        // The call may still count as in flight on its lane.
        self.limiter().release(&journaled.lane, id, None).await;
        let call = self.call(&journaled.lane, id, output_idx);
        let model = call.map_or(self.model, |call| call.model);
        let answer = Answer::without_usage(Ok(bytes));
        let adopted = self.finish(id, output_idx, model, answer, StoreFailure::KeepCallOpen);
        adopted.await.map(Some)
    }
}

//! Makes one output of a job: takes it from an earlier attempt, or buys it with a new call.

use super::attempt::{Attempt, OutputResult};
use super::image::{RenderResult, RenderSource};
use super::prior_calls::PriorCalls;

impl Attempt<'_> {
    /// Makes one output. Images that earlier attempts paid for come first. A new call is made only
    /// if there is no such image.
    ///
    /// # Errors
    ///
    /// Returns an error if something fails on our side. Another attempt may succeed.
    pub(super) async fn output(&self, output_idx: i32) -> anyhow::Result<OutputResult> {
        let earlier_calls = || {
            self.journal
                .iter()
                .filter(|call| call.output_idx == output_idx)
        };
        let with_original = earlier_calls().find_map(|call| Some((call, call.original.as_ref()?)));
        if let Some((call, original)) = with_original {
            let target = self.request.recipe().target;
            let source = RenderSource::new(original, imaging::memory(original.pixels, target));
            let rendered = self.render_stored(source, output_idx, &call.lane.model);
            // An original is named on its call only after it was rendered once.
            return match rendered.await? {
                RenderResult::Rendered(rendered) => {
                    self.store(output_idx, original.clone(), *rendered).await
                }
                RenderResult::Unusable(failure) => Err(anyhow::anyhow!(
                    "an original that was rendered before cannot be rendered again: {}",
                    failure.detail
                )),
            };
        }
        let mut prior_calls = PriorCalls::default();
        for journaled in earlier_calls() {
            let failure = match journaled.failure() {
                Some(failure) if !journaled.is_lost() => failure,
                // The call ended as lost, but its worker may have lived on and stored the image.
                Some(failure) => match self.adopt(journaled).await? {
                    Some(adopted) => return Ok(adopted),
                    None => failure,
                },
                None => match self.reconcile(journaled).await? {
                    OutputResult::Missing { failure, .. } => failure,
                    result => return Ok(result),
                },
            };
            prior_calls.add(&journaled.lane, &failure);
        }
        self.buy(output_idx, prior_calls).await
    }
}

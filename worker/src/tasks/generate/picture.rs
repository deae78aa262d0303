//! The pictures of one output: what they take in memory, and their way through the bucket and the render_pool.

use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use common::artifact::{Artifact, ArtifactKind, rendition_key, thumbnail_key};
use common::bucket::{BucketError, Stored};
use common::call::{Original, original_key};
use common::catalog::Model;
use common::generation::image::{MediaType, Pixels};
use common::id::{ArtifactId, CallId};
use common::job::{Claimed, DELIVERY_MARGIN};
use common::memory::{MemoryPermit, MemoryTimeout, with_permit};
use common::outcome::{Class, Failure};
use common::telemetry::process;
use imaging::{ImagingError, Provenance, Rendered};

use super::output::{Attempt, OutputResult};
use crate::memory::{self, TYPICAL_RESPONSE_BYTES};
use crate::providers::InputPicture;

/// What the bucket may take for one thing, all tries of it together.
const SPOOL_TIMEOUT: Duration = Duration::from_mins(5);

impl Attempt<'_> {
    /// The pictures to work from, and the room that they take, the body they will stand in included.
    pub(super) async fn inputs(
        &self,
    ) -> anyhow::Result<Result<(Vec<InputPicture>, Option<MemoryPermit>), Failure>> {
        let asked = &self.request.inputs;
        if asked.is_empty() {
            return Ok(Ok((Vec::new(), None)));
        }
        let _timed = process::step("inputs");
        let bytes: u64 = asked.iter().map(|input| input.bytes).sum();
        // In base64 they are a third larger.
        let bytes = usize::try_from(bytes / 3 * 7).unwrap_or(usize::MAX);
        let room = self.room(bytes).await?;
        let mut inputs = Vec::with_capacity(asked.len());
        for input in asked {
            let Some(bytes) = self.fetch(&input.object_key).await? else {
                let gone = format!("the input {} is not in the bucket", input.object_key);
                return Ok(Err(Failure::new(Class::Internal, gone)));
            };
            inputs.push(InputPicture {
                bytes,
                media_type: input.media_type,
                role: input.role,
            });
        }
        Ok(Ok((inputs, Some(room))))
    }

    /// Room in memory, as soon as there is some.
    async fn room(&self, bytes: usize) -> Result<MemoryPermit, MemoryTimeout> {
        let _step = self.lease.may_take(memory::MAX_WAIT);
        let _timed = process::step("room");
        self.app.memory.acquire(bytes).await
    }

    /// Stores, and develops meanwhile where there is room for it: either alone may fail. What is no picture is the provider's
    /// failure; an error is the bucket's.
    pub(super) async fn store_original(
        &self,
        call: CallId,
        output_idx: i32,
        model: &Model,
        bytes: Bytes,
    ) -> Result<Result<(Original, Option<Rendered>), Failure>, BucketError> {
        let (media_type, pixels) = match imaging::inspect(&bytes) {
            Ok(known) => known,
            Err(error) => return Ok(Err(unusable(&error))),
        };
        let object_key = original_key(self.claimed.tenant, call);
        let _step = self.lease.may_take(SPOOL_TIMEOUT);
        let put = async {
            let _timed = process::step("store_original");
            self.app.spool.put_once(&object_key, bytes.clone()).await
        };
        let (stored, rendered) = match self.app.memory.try_acquire(self.cost(pixels)) {
            Some(room) => {
                let develop = self.render(bytes.clone(), room, output_idx, &model.id);
                let (stored, rendered) = tokio::join!(put, develop);
                (stored, Some(rendered))
            }
            None => (put.await, None),
        };
        let rendered = match rendered.transpose() {
            Ok(rendered) => rendered,
            Err(failure) => return Ok(Err(failure)),
        };
        let Stored { sha256, bytes } = match stored {
            Ok(stored) => stored,
            Err(failed) => {
                // It may wait until its job ends.
                let left = self.deadline.saturating_duration_since(Instant::now());
                let _step = self.lease.may_take(left);
                let beside = rendered.as_ref().map_or(0, |rendered| {
                    rendered.rendition.bytes.len() + rendered.thumbnail.bytes.len()
                });
                let until = self.waits_until();
                let kept = (self.app.spool).store_when_available(
                    &object_key,
                    bytes,
                    beside,
                    until,
                    failed,
                );
                kept.await?
            }
        };
        let original = Original {
            object_key,
            sha256,
            bytes,
            media_type,
            pixels,
        };
        Ok(Ok((original, rendered)))
    }

    /// Develops what is in the bucket, as soon as there is room for it. An error is ours, or the bucket's.
    pub(super) async fn render_stored(
        &self,
        key: &str,
        pixels: Pixels,
        output_idx: i32,
        model: &str,
    ) -> anyhow::Result<Result<Rendered, Failure>> {
        let room = self.room(self.cost(pixels)).await?;
        let bytes = self.fetch(key).await?;
        let bytes = bytes.context("an original that was stored is not in the bucket")?;
        Ok(self.render(bytes, room, output_idx, model).await)
    }

    /// What developing takes in memory, the original's file included.
    fn cost(&self, original: Pixels) -> usize {
        imaging::memory(original, self.request.recipe().target)
    }

    /// How long a picture may wait for the bucket, where that is not until the job ends: the others of the job are
    /// delivered before its deadline.
    fn waits_until(&self) -> Option<Instant> {
        let others = self.claimed.n_requested > 1;
        let last_call = self.deadline.checked_sub(DELIVERY_MARGIN);
        others.then(|| last_call.unwrap_or(self.deadline))
    }

    /// An original that was stored, if one was; nobody said how large it is.
    pub(super) async fn fetch_original(&self, key: &str) -> anyhow::Result<Option<Bytes>> {
        let room = self.room(TYPICAL_RESPONSE_BYTES).await?;
        let bytes = self.fetch(key).await?;
        Ok(bytes.map(|bytes| with_permit(bytes, room)))
    }

    pub(super) async fn fetch(&self, key: &str) -> Result<Option<Bytes>, BucketError> {
        let _step = self.lease.may_take(SPOOL_TIMEOUT);
        self.app.spool.get(key).await
    }

    /// Brings an original to exactly what was asked for. An original that cannot be is the provider's fault.
    pub(super) async fn render(
        &self,
        bytes: Bytes,
        mut room: MemoryPermit,
        output_idx: i32,
        model: &str,
    ) -> Result<Rendered, Failure> {
        let mark = Provenance {
            model: model.to_owned(),
            source: format!("{}/{output_idx}", self.claimed.id),
            synthetic: self.app.providers.synthetic(),
        };
        let _step = self.lease.may_take(self.app.render_pool.max_wait());
        let _timed = process::step("develop");
        let rendered = self
            .app
            .render_pool
            .render(bytes, self.request.recipe(), mark)
            .await;
        let mut rendered = rendered.map_err(|error| unusable(&error))?;
        let rendition = &mut rendered.rendition.bytes;
        room.shrink(rendition.len() + rendered.thumbnail.bytes.len());
        *rendition = with_permit(std::mem::take(rendition), room);
        Ok(rendered)
    }

    /// Stores rendition and thumbnail under this attempt's keys.
    pub(super) async fn store(
        &self,
        output_idx: i32,
        original: Original,
        rendered: Rendered,
    ) -> anyhow::Result<OutputResult> {
        let Claimed {
            id: job,
            tenant,
            fence,
            ..
        } = *self.claimed;
        let Rendered {
            rendition,
            thumbnail,
            c2pa,
        } = rendered;
        let rendition_key = rendition_key(tenant, job, fence, output_idx, self.request.format);
        let thumbnail_key = thumbnail_key(tenant, job, fence, output_idx);
        let _step = self.lease.may_take(SPOOL_TIMEOUT);
        let _timed = process::step("store");
        let (stored, small) = tokio::try_join!(
            self.app.spool.put(&rendition_key, rendition.bytes),
            self.app.spool.put(&thumbnail_key, thumbnail.bytes)
        )?;
        let synthetic = self.app.providers.synthetic();
        let artifact =
            |role, object_key, stored: Stored, media_type: MediaType, pixels: Pixels| Artifact {
                id: ArtifactId::new(),
                job,
                output_idx,
                kind: role,
                object_key,
                sha256: stored.sha256,
                bytes: stored.bytes,
                media_type,
                pixels,
                synthetic,
                c2pa_sha256: c2pa.filter(|_| role == ArtifactKind::Original),
                created_at: None,
            };
        let as_stored = Stored {
            sha256: original.sha256,
            bytes: original.bytes,
        };
        Ok(OutputResult::Picture(Box::new([
            artifact(
                ArtifactKind::Rendition,
                rendition_key,
                stored,
                rendition.media_type,
                rendition.pixels,
            ),
            artifact(
                ArtifactKind::Thumbnail,
                thumbnail_key,
                small,
                thumbnail.media_type,
                thumbnail.pixels,
            ),
            artifact(
                ArtifactKind::Original,
                original.object_key,
                as_stored,
                original.media_type,
                original.pixels,
            ),
        ])))
    }
}

/// An original that nothing can be made of is the provider's fault, unless this worker had no time to try.
fn unusable(error: &ImagingError) -> Failure {
    let class = match error {
        ImagingError::ShuttingDown => Class::Internal,
        _ => Class::ProviderInvalid,
    };
    Failure::new(class, error.to_string())
}

//! The images of one output: the memory they take, and their way through bucket and render pool.

use std::time::{Duration, Instant};

use anyhow::Context;
use bucket::{BucketError, StoredObject};
use bytes::Bytes;
use common::memory::{MemoryPermit, MemoryTimeout, with_permit};
use domain::artifact::{Artifact, ArtifactKind, rendition_key, thumbnail_key};
use domain::call::original_key;
use domain::catalog::Model;
use domain::generation::image::Pixels;
use domain::id::{ArtifactId, CallId};
use domain::job::{Claimed, DELIVERY_MARGIN};
use domain::outcome::{Class, Failure};
use domain::stored_file::StoredFile;
use imaging::{ImagingError, Provenance, Rendered};
use telemetry::process;

use super::attempt::{Attempt, OutputResult};
use crate::memory::{self, TYPICAL_RESPONSE_BYTES};
use crate::providers::InputImage;

/// How long the bucket may take for one object, all tries together.
const SPOOL_TIMEOUT: Duration = Duration::from_mins(5);

/// The input images of a job.
pub(super) enum Inputs {
    /// All of them, and the memory they and the request's body take; `None` without inputs.
    Loaded {
        images: Vec<InputImage>,
        permit: Option<MemoryPermit>,
    },
    /// One is not in the bucket; no attempt can succeed.
    Missing(Failure),
}

/// What became of an original that was to be stored.
pub(super) enum OriginalResult {
    /// It is stored, and was rendered meanwhile.
    Rendered(StoredFile, Box<Rendered>),
    /// It is stored; there was no memory to render it at once.
    Stored(StoredFile),
    /// It is no usable image.
    Unusable(Failure),
}

/// What became of an original that was to be rendered.
pub(super) enum RenderResult {
    /// It is rendered to the size of the request.
    Rendered(Box<Rendered>),
    /// It is no usable image, which is the provider's fault, or this worker stops.
    Unusable(Failure),
}

impl Attempt<'_> {
    /// Loads the job's input images from the bucket.
    ///
    /// # Errors
    ///
    /// Fails when no memory becomes free in time, and when the bucket cannot be read.
    pub(super) async fn inputs(&self) -> anyhow::Result<Inputs> {
        let requested = &self.request.inputs;
        if requested.is_empty() {
            return Ok(Inputs::Loaded {
                images: Vec::new(),
                permit: None,
            });
        }
        let _timed = process::step("inputs");
        let bytes: u64 = requested.iter().map(|input| input.bytes).sum();
        // The files themselves, and once more in the request's body, where base64 makes them a
        // third larger: 1 + 4/3.
        let bytes = usize::try_from(bytes / 3 * 7).unwrap_or(usize::MAX);
        let permit = self.memory_permit(bytes).await?;
        let mut images = Vec::with_capacity(requested.len());
        for input in requested {
            let Some(bytes) = self.fetch(&input.object_key).await? else {
                let detail = format!("the input {} is not in the bucket", input.object_key);
                return Ok(Inputs::Missing(Failure::new(Class::Internal, detail)));
            };
            images.push(InputImage {
                bytes,
                media_type: input.media_type,
                role: input.role,
            });
        }
        Ok(Inputs::Loaded {
            images,
            permit: Some(permit),
        })
    }

    /// Waits for memory. The caller must hold none of it meanwhile, or two attempts could wait for
    /// each other.
    async fn memory_permit(&self, bytes: usize) -> Result<MemoryPermit, MemoryTimeout> {
        let _step = self.lease.begin_step(memory::MAX_WAIT);
        let _timed = process::step("room");
        self.app.memory.acquire(bytes).await
    }

    /// Stores an original under its call's key, and renders it meanwhile if there is memory for it.
    /// While the bucket is unavailable, the original waits in the spool.
    ///
    /// # Errors
    ///
    /// Fails when the original could not be stored: the spool is full, or its time is over.
    pub(super) async fn store_original(
        &self,
        call: CallId,
        output_idx: i32,
        model: &Model,
        bytes: Bytes,
    ) -> Result<OriginalResult, BucketError> {
        let (media_type, pixels) = match imaging::inspect(&bytes) {
            Ok(inspected) => inspected,
            Err(error) => return Ok(OriginalResult::Unusable(imaging_failure(&error))),
        };
        let object_key = original_key(self.claimed.tenant, call);
        let _step = self.lease.begin_step(SPOOL_TIMEOUT);
        let put = async {
            let _timed = process::step("store_original");
            self.app.spool.put_once(&object_key, bytes.clone()).await
        };
        let (stored, rendered) = match self.app.memory.try_acquire(self.render_bytes(pixels)) {
            Some(permit) => {
                let render = self.render(bytes.clone(), permit, output_idx, &model.id);
                let (stored, rendered) = tokio::join!(put, render);
                (stored, Some(rendered))
            }
            None => (put.await, None),
        };
        let rendered = match rendered {
            Some(RenderResult::Rendered(rendered)) => Some(rendered),
            Some(RenderResult::Unusable(failure)) => {
                return Ok(OriginalResult::Unusable(failure));
            }
            None => None,
        };
        let StoredObject { sha256, bytes } = match stored {
            Ok(stored) => stored,
            Err(error) => {
                // The original was paid for, so it may wait until its job ends.
                let left = self.deadline.saturating_duration_since(Instant::now());
                let _step = self.lease.begin_step(left);
                let held_beside = rendered.as_ref().map_or(0, |rendered| {
                    rendered.rendition.bytes.len() + rendered.thumbnail.bytes.len()
                });
                let until = self.spool_deadline();
                let stored = (self.app.spool).store_when_available(
                    &object_key,
                    bytes,
                    held_beside,
                    until,
                    error,
                );
                stored.await?
            }
        };
        let original = StoredFile {
            object_key,
            sha256,
            bytes,
            media_type,
            pixels,
        };
        Ok(match rendered {
            Some(rendered) => OriginalResult::Rendered(original, rendered),
            None => OriginalResult::Stored(original),
        })
    }

    /// Renders an original from the bucket, once there is memory for it.
    ///
    /// # Errors
    ///
    /// Fails when no memory becomes free in time, when the bucket cannot be read, and when the
    /// original is not there.
    pub(super) async fn render_stored(
        &self,
        key: &str,
        pixels: Pixels,
        output_idx: i32,
        model: &str,
    ) -> anyhow::Result<RenderResult> {
        let permit = self.memory_permit(self.render_bytes(pixels)).await?;
        let bytes = self.fetch(key).await?;
        let bytes = bytes.context("an original that was stored is not in the bucket")?;
        Ok(self.render(bytes, permit, output_idx, model).await)
    }

    /// The memory that rendering takes, in bytes, with the original's file.
    fn render_bytes(&self, original: Pixels) -> usize {
        imaging::memory(original, self.request.recipe().target)
    }

    /// Until when an original may wait for the bucket; `None`: until the job ends. A job with
    /// several outputs delivers the others before its deadline, so there the wait ends earlier.
    fn spool_deadline(&self) -> Option<Instant> {
        let has_other_outputs = self.claimed.n_requested > 1;
        let delivery = self.deadline.checked_sub(DELIVERY_MARGIN);
        has_other_outputs.then(|| delivery.unwrap_or(self.deadline))
    }

    /// Reads an original that may have been stored. Its size is not known, so a typical one is
    /// reserved. `None` when there is none.
    ///
    /// # Errors
    ///
    /// Fails when no memory becomes free in time, and when the bucket cannot be read.
    pub(super) async fn fetch_original(&self, key: &str) -> anyhow::Result<Option<Bytes>> {
        let permit = self.memory_permit(TYPICAL_RESPONSE_BYTES).await?;
        let bytes = self.fetch(key).await?;
        Ok(bytes.map(|bytes| with_permit(bytes, permit)))
    }

    async fn fetch(&self, key: &str) -> Result<Option<Bytes>, BucketError> {
        let _step = self.lease.begin_step(SPOOL_TIMEOUT);
        self.app.spool.get(key).await
    }

    /// Renders an original to exactly the pixels and format of the request.
    async fn render(
        &self,
        bytes: Bytes,
        mut permit: MemoryPermit,
        output_idx: i32,
        model: &str,
    ) -> RenderResult {
        let provenance = Provenance {
            model: model.to_owned(),
            source: format!("{}/{output_idx}", self.claimed.id),
            synthetic: self.app.providers.synthetic(),
        };
        let _step = self.lease.begin_step(self.app.render_pool.max_wait());
        let _timed = process::step("develop");
        let rendered = self
            .app
            .render_pool
            .render(bytes, self.request.recipe(), provenance)
            .await;
        let mut rendered = match rendered {
            Ok(rendered) => rendered,
            Err(error) => return RenderResult::Unusable(imaging_failure(&error)),
        };
        // The permit shrinks to what is left, and is held for as long as the rendition's bytes are.
        let rendition = &mut rendered.rendition.bytes;
        permit.shrink(rendition.len() + rendered.thumbnail.bytes.len());
        *rendition = with_permit(std::mem::take(rendition), permit);
        RenderResult::Rendered(Box::new(rendered))
    }

    /// Stores rendition and thumbnail under keys that contain this attempt's fence, so that a late
    /// worker overwrites nothing.
    ///
    /// # Errors
    ///
    /// Fails when the bucket does not store them; the next attempt renders the original again.
    pub(super) async fn store(
        &self,
        output_idx: i32,
        original: StoredFile,
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
        let _step = self.lease.begin_step(SPOOL_TIMEOUT);
        let _timed = process::step("store");
        let (rendition_stored, thumbnail_stored) = tokio::try_join!(
            self.app.spool.put(&rendition_key, rendition.bytes),
            self.app.spool.put(&thumbnail_key, thumbnail.bytes)
        )?;
        let synthetic = self.app.providers.synthetic();
        let file = |object_key, stored: StoredObject, media_type, pixels| StoredFile {
            object_key,
            sha256: stored.sha256,
            bytes: stored.bytes,
            media_type,
            pixels,
        };
        let rendition = file(
            rendition_key,
            rendition_stored,
            rendition.media_type,
            rendition.pixels,
        );
        let thumbnail = file(
            thumbnail_key,
            thumbnail_stored,
            thumbnail.media_type,
            thumbnail.pixels,
        );
        let artifact = |kind, file| Artifact {
            id: ArtifactId::new(),
            job,
            output_idx,
            kind,
            file,
            synthetic,
            c2pa_sha256: c2pa.filter(|_| kind == ArtifactKind::Original),
            created_at: None,
        };
        Ok(OutputResult::Stored(Box::new([
            artifact(ArtifactKind::Rendition, rendition),
            artifact(ArtifactKind::Thumbnail, thumbnail),
            artifact(ArtifactKind::Original, original),
        ])))
    }
}

/// The failure for an original that cannot be rendered. That is the provider's fault, unless this
/// worker was stopped before it could try.
fn imaging_failure(error: &ImagingError) -> Failure {
    let class = match error {
        ImagingError::ShuttingDown => Class::Internal,
        _ => Class::ProviderInvalid,
    };
    Failure::new(class, error.to_string())
}

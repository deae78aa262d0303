//! Loads, stores and renders the images of one output, within the memory that images may take.

use std::time::{Duration, Instant};

use anyhow::Context;
use bucket::{BucketError, StoredObject};
use bytes::Bytes;
use common::memory::{Memory, MemoryPermit, MemoryTimeout, with_permit};
use domain::artifact::{Artifact, ArtifactKind, rendition_key, thumbnail_key};
use domain::call::original_key;
use domain::catalog::Model;
use domain::id::{ArtifactId, CallId};
use domain::job::{Claimed, DELIVERY_MARGIN};
use domain::outcome::{Class, Failure};
use domain::stored_file::StoredFile;
use imaging::{ImagingError, Provenance, Rendered};
use telemetry::process;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use super::attempt::{Attempt, OutputResult};
use crate::memory::{self, TYPICAL_RESPONSE_BYTES};
use crate::providers::InputImage;

/// How long the bucket may take for one object, with all tries.
const OBJECT_TIMEOUT: Duration = Duration::from_mins(5);

/// The input images of a job.
pub(super) enum Inputs {
    /// All images, and the memory that they and the request's body take. The permit is `None` if
    /// there are no inputs.
    Loaded {
        images: Vec<InputImage>,
        permit: Option<MemoryPermit>,
    },
    /// An image is not in the bucket, so no attempt can succeed.
    Missing(Failure),
}

/// The result of storing an original.
pub(super) enum OriginalResult {
    /// The original is stored, and was rendered meanwhile.
    Rendered(StoredFile, Box<Rendered>),
    /// The original is stored, but there was no memory to render it at once. With the bytes of memory that rendering
    /// takes.
    Stored(StoredFile, usize),
    /// The original is not a usable image.
    Unusable(Failure),
}

/// An original in the bucket that is to be rendered.
pub(super) struct RenderSource<'a> {
    /// The key of the object.
    pub(super) key: &'a str,
    /// The size of the file, in bytes.
    pub(super) file_bytes: usize,
    /// The memory that rendering takes, the file included, in bytes.
    pub(super) render_memory: usize,
}

impl<'a> RenderSource<'a> {
    /// A stored original, and the bytes of memory that rendering it takes.
    pub(super) fn new(original: &'a StoredFile, render_memory: usize) -> Self {
        Self {
            key: &original.object_key,
            file_bytes: usize::try_from(original.bytes).unwrap_or(usize::MAX),
            render_memory,
        }
    }
}

/// The result of rendering an original.
pub(super) enum RenderResult {
    /// The original is rendered to the size of the request.
    Rendered(Box<Rendered>),
    /// The original is not a usable image, which is the provider's fault, or this worker stops.
    Unusable(Failure),
}

impl Attempt<'_> {
    /// Loads the job's input images from the bucket.
    ///
    /// # Errors
    ///
    /// Returns an error if no memory becomes free in time, or if the bucket cannot be read.
    pub(super) async fn inputs(&self) -> anyhow::Result<Inputs> {
        let requested = &self.request.inputs;
        if requested.is_empty() {
            return Ok(Inputs::Loaded {
                images: Vec::new(),
                permit: None,
            });
        }
        let _timed = process::start_step_timer("inputs");
        let bytes: u64 = requested.iter().map(|input| input.bytes).sum();
        // Each file is in memory twice: once as it is, and once in the request's body, where base64
        // makes it a third larger. 1 + 4/3 = 7/3.
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

    /// Waits for memory. The caller must hold no memory permit meanwhile, or two attempts could
    /// wait for each other.
    async fn memory_permit(&self, bytes: usize) -> Result<MemoryPermit, MemoryTimeout> {
        self.permit_of(&self.app.memory, bytes).await
    }

    /// Waits for a permit of this limit. In the metric, the wait is called `room`.
    async fn permit_of(&self, limit: &Memory, bytes: usize) -> Result<MemoryPermit, MemoryTimeout> {
        let _step = self.lease.begin_step(memory::MAX_WAIT);
        let _timed = process::start_step_timer("room");
        limit.acquire(bytes).await
    }

    /// Waits for memory to render an image: that of all images, or the reserve. As with
    /// [`Self::memory_permit`], the caller must hold no memory permit, except for a file that was read
    /// ahead ([`Self::render_stored`]).
    async fn render_permit(&self, bytes: usize) -> Result<MemoryPermit, MemoryTimeout> {
        let Some(reserve) = self.render_reserve(bytes) else {
            return self.memory_permit(bytes).await;
        };
        let _step = self.lease.begin_step(memory::MAX_WAIT);
        let _timed = process::start_step_timer("room");
        tokio::select! {
            permit = self.app.memory.acquire(bytes) => permit,
            permit = reserve.acquire(bytes) => permit,
        }
    }

    /// Does the same as [`Self::render_permit`], without waiting. Returns `None` if there is not
    /// enough memory now.
    fn try_render_permit(&self, bytes: usize) -> Option<MemoryPermit> {
        let permit = self.app.memory.try_acquire(bytes);
        permit.or_else(|| self.render_reserve(bytes)?.try_acquire(bytes))
    }

    /// The memory that only rendering may take, if it is enough.
    fn render_reserve(&self, bytes: usize) -> Option<&Memory> {
        Some(&self.app.render_reserve).filter(|reserve| bytes <= reserve.bytes())
    }

    /// Stores an original under its call's key, and renders it meanwhile if there is memory for it.
    /// While the bucket is unavailable, the original waits in the spool.
    ///
    /// # Errors
    ///
    /// Returns an error if the original could not be stored: the bucket refused it for good, the
    /// spool is full, or the deadline has passed.
    pub(super) async fn store_original(
        &self,
        call_id: CallId,
        output_idx: i32,
        model: &Model,
        bytes: Bytes,
    ) -> Result<OriginalResult, BucketError> {
        let recipe = self.request.recipe();
        let inspected = imaging::inspect(&bytes);
        let inspected = inspected.and_then(|(media_type, pixels)| {
            let memory = imaging::memory_to_render(&bytes, &recipe)?;
            Ok((media_type, pixels, memory))
        });
        let (media_type, pixels, render_memory) = match inspected {
            Ok(inspected) => inspected,
            Err(error) => return Ok(OriginalResult::Unusable(imaging_failure(&error))),
        };
        let object_key = original_key(self.claimed.tenant, call_id);
        let _step = self.lease.begin_step(OBJECT_TIMEOUT);
        let put = async {
            let _timed = process::start_step_timer("store_original");
            self.app.spool.put_once(&object_key, bytes.clone()).await
        };
        let (stored, render_result) = match self.try_render_permit(render_memory) {
            Some(permit) => {
                let render = self.render(bytes.clone(), permit, output_idx, &model.id);
                let (stored, render_result) = tokio::join!(put, render);
                (stored, Some(render_result))
            }
            None => (put.await, None),
        };
        let rendered = match render_result {
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
                let time_until_job_deadline =
                    self.deadline.saturating_duration_since(Instant::now());
                let _step = self.lease.begin_step(time_until_job_deadline);
                let other_bytes_in_memory = rendered.as_ref().map_or(0, |rendered| {
                    rendered.rendition.bytes.len() + rendered.thumbnail.bytes.len()
                });
                let spool_deadline = self.spool_deadline();
                let stored = (self.app.spool).store_when_available(
                    &object_key,
                    bytes,
                    other_bytes_in_memory,
                    spool_deadline,
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
            None => OriginalResult::Stored(original, render_memory),
        })
    }

    /// Renders an original from the bucket, once there is memory for it.
    ///
    /// # Errors
    ///
    /// Returns an error if no memory becomes free in time, if the bucket cannot be read, or if the
    /// original is not in the bucket.
    pub(super) async fn render_stored(
        &self,
        source: RenderSource<'_>,
        output_idx: i32,
        model_id: &str,
    ) -> anyhow::Result<RenderResult> {
        let read = async || {
            let bytes = self.fetch(source.key).await?;
            bytes.context("an original that was stored is not in the bucket")
        };
        let (bytes, permit) = if let Some(permit) = self.try_render_permit(source.render_memory) {
            (None, permit)
        } else if self.render_reserve(source.render_memory).is_some() {
            // A few attempts read their files ahead, so that the processor does not wait for the
            // bucket between two images. They hold memory for the file while they wait for more.
            // That wait ends, because the reserve alone is enough to render the image.
            let _turn = self.read_ahead_turn().await?;
            let file_memory = self.app.memory.try_acquire(source.file_bytes);
            let bytes = match &file_memory {
                Some(_) => Some(read().await?),
                None => None,
            };
            (bytes, self.render_permit(source.render_memory).await?)
        } else {
            (None, self.render_permit(source.render_memory).await?)
        };
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => read().await?,
        };
        Ok(self.render(bytes, permit, output_idx, model_id).await)
    }

    /// Waits until this attempt is one of the next to render a stored original.
    async fn read_ahead_turn(&self) -> anyhow::Result<SemaphorePermit<'_>> {
        let _step = self.lease.begin_step(memory::MAX_WAIT);
        let _timed = process::start_step_timer("room");
        let turn = timeout(memory::MAX_WAIT, self.app.read_ahead_turns.acquire()).await;
        Ok(turn.context("other images have been waiting for memory for too long")??)
    }

    /// Until when an original may wait for the bucket. `None` means until the job ends. A job with
    /// several outputs delivers the other images before its deadline, so its originals wait less
    /// long.
    fn spool_deadline(&self) -> Option<Instant> {
        let has_other_outputs = self.claimed.n_requested > 1;
        let delivery = self.deadline.checked_sub(DELIVERY_MARGIN);
        has_other_outputs.then(|| delivery.unwrap_or(self.deadline))
    }

    /// Reads an original that may have been stored. Its size is not known, so the memory of a
    /// typical original is reserved. Returns `None` if there is no such original.
    ///
    /// # Errors
    ///
    /// Returns an error if no memory becomes free in time, or if the bucket cannot be read.
    pub(super) async fn fetch_original(&self, key: &str) -> anyhow::Result<Option<Bytes>> {
        let permit = self.memory_permit(TYPICAL_RESPONSE_BYTES).await?;
        let bytes = self.fetch(key).await?;
        Ok(bytes.map(|bytes| with_permit(bytes, permit)))
    }

    /// Reads an object from the bucket. Returns `None` if there is no such object.
    async fn fetch(&self, key: &str) -> Result<Option<Bytes>, BucketError> {
        let _step = self.lease.begin_step(OBJECT_TIMEOUT);
        self.app.spool.get(key).await
    }

    /// Renders an original to exactly the pixels and format of the request. `permit` is for the
    /// memory that this takes ([`Self::render_bytes`]).
    async fn render(
        &self,
        bytes: Bytes,
        mut permit: MemoryPermit,
        output_idx: i32,
        model_id: &str,
    ) -> RenderResult {
        let provenance = Provenance {
            model: model_id.to_owned(),
            source: format!("{}/{output_idx}", self.claimed.id),
            synthetic: self.app.providers.is_synthetic(),
        };
        let _step = self.lease.begin_step(self.app.render_pool.max_wait());
        // In the metric, rendering is called `develop`.
        let _timed = process::start_step_timer("develop");
        let rendered = self
            .app
            .render_pool
            .render(bytes, self.request.recipe(), provenance)
            .await;
        let mut rendered = match rendered {
            Ok(rendered) => rendered,
            Err(error) => return RenderResult::Unusable(imaging_failure(&error)),
        };
        // The permit shrinks to the size of the results, and is held for as long as the rendition's
        // bytes are in memory.
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
    /// Returns an error if the bucket does not store both. The next attempt then renders the
    /// original again.
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
        let _step = self.lease.begin_step(OBJECT_TIMEOUT);
        let _timed = process::start_step_timer("store");
        let (rendition_stored, thumbnail_stored) = tokio::try_join!(
            self.app.spool.put(&rendition_key, rendition.bytes),
            self.app.spool.put(&thumbnail_key, thumbnail.bytes)
        )?;
        let synthetic = self.app.providers.is_synthetic();
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
        // Only the original contains the provider's content credentials (C2PA).
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

/// Classifies an error of rendering. The provider is at fault, unless this worker was stopped
/// before it could render.
fn imaging_failure(error: &ImagingError) -> Failure {
    let class = match error {
        ImagingError::ShuttingDown => Class::Internal,
        _ => Class::ProviderInvalid,
    };
    Failure::new(class, error.to_string())
}

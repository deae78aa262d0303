//! Limits of memory and cores for requests, all tenants together. Memory is counted in bytes and reserved before it is used.
//!
//! The memory has three separate parts: bodies being read, images being decoded, and chunks of downloads that clients have not
//! taken yet. A request may hold memory of one part while it waits for memory of another. With one common part, such requests could
//! block each other. If there is no memory, a request waits for a limited time and then gets 503.

use std::sync::Arc;

use bytes::Bytes;
use common::memory::{Memory, MemoryPermit, with_permit};
use imaging::{ImagingError, RenderPool, Rendition};
use telemetry::{API_MEMORY_LIMIT, API_MEMORY_USED};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::{Code, Problem, explain_image_error};
use crate::shares::{MAX_UPLOAD_WAIT, Resource, Share, WaitingGuard};

/// Memory that an API process needs without any large body or image, in bytes: its program, connections, and small bodies.
const BASE_BYTES: usize = 40_000_000;
/// Bodies up to this size reserve no memory.
const UNCOUNTED_BYTES: usize = 64 * 1024;
/// How many bytes a body grows by at least, each time it needs more than was reserved. A body that does not declare its length
/// grows many times.
const GROWTH_STEP_BYTES: usize = 1024 * 1024;
/// The most bytes of one download that are in memory.
pub const CHUNK_BYTES: usize = 128 * 1024;
/// Memory that decoding an image of four megapixels takes, in bytes. One render slot is only for images up to this size.
const SMALL_IMAGE_BYTES: usize = 48 << 20;

/// The memory and the render slots of an API process. Clones share them. A render slot is the right to have one image rendered.
#[derive(Clone)]
pub struct Budget {
    bodies: Memory,
    images: Memory,
    downloads: Memory,
    render_pool: RenderPool,
    /// Render slots for images of any size.
    slots: Arc<Semaphore>,
    /// The render slot for small images.
    small_slot: Arc<Semaphore>,
    /// How many render slots there are, with the one for small images.
    slot_count: usize,
}

/// Why an image was not cleaned.
#[derive(Debug)]
pub enum CleanError {
    /// The image cannot be used. Says why, in words for its owner.
    Image(String),
    /// The request fails, whatever the image is.
    Request(Problem),
}

impl From<ImagingError> for CleanError {
    fn from(error: ImagingError) -> Self {
        Self::Image(explain_image_error(&error))
    }
}

impl From<Problem> for CleanError {
    fn from(problem: Problem) -> Self {
        Self::Request(problem)
    }
}

impl Budget {
    /// Divides `max_bytes`, the most memory that the whole process may use, among bodies (an eighth), downloads (a twentieth) and
    /// images (the rest). `slots` images of any size are rendered at once, and one small image in addition.
    pub fn within(max_bytes: usize, slots: usize) -> Self {
        // However small `max_bytes` is, small bodies and images must fit.
        let rest = max_bytes.saturating_sub(BASE_BYTES).max(8 << 20);
        let (bodies, downloads) = (rest / 8, rest / 20);
        let memory = |part: &str, bytes: usize| {
            let (limit, used) = (&API_MEMORY_LIMIT, &API_MEMORY_USED);
            let [limit, used] = [limit, used].map(|gauge| gauge.with_label_values(&[part]));
            Memory::new(bytes, MAX_UPLOAD_WAIT, &limit, &used)
        };
        let slots = slots.max(1);
        Self {
            bodies: memory("bodies", bodies),
            // The label is older than the word `images`. Dashboards ask for it.
            images: memory("pictures", rest - bodies - downloads),
            downloads: memory("downloads", downloads),
            render_pool: RenderPool::new(slots + 1),
            slots: Arc::new(Semaphore::new(slots)),
            small_slot: Arc::new(Semaphore::new(1)),
            slot_count: slots + 1,
        }
    }

    /// How many images are rendered at once, with the one small image.
    pub fn slots(&self) -> usize {
        self.slot_count
    }

    /// The bytes that all bodies together may use.
    pub fn body_bytes(&self) -> usize {
        self.bodies.bytes()
    }

    /// Makes a permit for the body of a tenant's request, which will take `times` times its size in memory. The permit reserves
    /// nothing until [`BodyPermit::grow`] is called.
    pub fn body(&self, share: Arc<Share>, times: usize) -> BodyPermit {
        BodyPermit {
            memory: self.bodies.clone(),
            share,
            times,
            bytes: 0,
            reserved_kib: 0,
            held: Vec::new(),
        }
    }

    /// Reserves the memory of one download (one chunk), until the permit is dropped.
    ///
    /// # Errors
    /// Returns [`Code::Overloaded`] if no memory became free in time.
    pub async fn download(&self) -> Result<MemoryPermit, Problem> {
        acquire(&self.downloads, CHUNK_BYTES, Resource::Downloads).await
    }

    /// Decodes an image and encodes it again without metadata, in at most `max_bytes`. Waits until the tenant's share, a render slot
    /// and the memory allow it.
    ///
    /// # Errors
    /// [`CleanError::Image`] if the image cannot be used. [`Code::Overloaded`] if the wait took too long, and [`Code::Internal`] if the
    /// work panicked.
    pub async fn clean(
        &self,
        share: &Share,
        file: Bytes,
        max_bytes: usize,
    ) -> Result<Rendition, CleanError> {
        let needed = imaging::memory_to_clean(&file)?;
        let available = self.images.bytes();
        if needed > available {
            let [needed, available] = [needed, available].map(|bytes| bytes.div_ceil(1_000_000));
            return Err(CleanError::Image(format!(
                "Opening the image takes {needed} MB of memory, and this service has {available} MB for one image: send one with fewer pixels."
            )));
        }
        let share_permit = share.image().await?;
        let slot = self.render_slot(needed).await?;
        let render_pool = self.render_pool.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the task ends by itself within seconds, and nothing is lost if the process ends first"
        )]
        // This is a task of its own, because rendering goes on when the client is gone, and the permits must live as long as the
        // rendering.
        let work = tokio::spawn(async move {
            let _held = (share_permit, slot);
            render_pool.clean(file, max_bytes).await
        });
        let cleaned = work.await.map_err(|_| Problem::from(Code::Internal))?;
        Ok(cleaned?)
    }

    /// Waits for a render slot and the memory for an image that takes `needed` bytes. A small image takes the slot that becomes
    /// free first.
    async fn render_slot(
        &self,
        needed: usize,
    ) -> Result<(OwnedSemaphorePermit, MemoryPermit), Problem> {
        let _waiting = WaitingGuard::new(Resource::Images);
        let slot = async {
            if needed > SMALL_IMAGE_BYTES {
                return self.acquire_slot(&self.slots, needed).await;
            }
            tokio::select! {
                biased;
                slot = self.acquire_slot(&self.slots, needed) => slot,
                slot = self.acquire_slot(&self.small_slot, needed) => slot,
            }
        };
        let slot = timeout(MAX_UPLOAD_WAIT, slot).await.ok().flatten();
        slot.ok_or_else(|| Resource::Images.overloaded())
    }

    /// Waits for one of these slots, then for the memory. Returns `None` if no memory became free in time. The slot comes first, so
    /// that a request without a slot holds no memory.
    async fn acquire_slot(
        &self,
        slots: &Arc<Semaphore>,
        needed: usize,
    ) -> Option<(OwnedSemaphorePermit, MemoryPermit)> {
        let slot = Arc::clone(slots).acquire_owned().await;
        let slot = slot.expect("the semaphore is never closed");
        Some((slot, self.images.acquire(needed).await.ok()?))
    }
}

/// Waits for memory, and counts the request as waiting in the metrics meanwhile.
async fn acquire(
    memory: &Memory,
    bytes: usize,
    resource: Resource,
) -> Result<MemoryPermit, Problem> {
    if let Some(permit) = memory.try_acquire(bytes) {
        return Ok(permit);
    }
    let _waiting = WaitingGuard::new(resource);
    memory
        .acquire(bytes)
        .await
        .map_err(|_| resource.overloaded())
}

/// The memory of one body, counted in its tenant's share and in the total.
pub struct BodyPermit {
    memory: Memory,
    share: Arc<Share>,
    /// How many times the size of the body is reserved.
    times: usize,
    /// The size of the body for which memory is reserved.
    bytes: usize,
    /// The memory that is reserved, in KiB.
    reserved_kib: usize,
    /// The permits of the tenant's share and of the total, one pair for each growth.
    held: Vec<(OwnedSemaphorePermit, MemoryPermit)>,
}

impl BodyPermit {
    /// Reserves the memory for a body of `bytes` bytes in total. Bodies up to 64 KiB reserve nothing.
    ///
    /// # Errors
    /// Returns [`Code::Overloaded`] if no memory became free in time.
    pub async fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        if bytes <= self.bytes.max(UNCOUNTED_BYTES) {
            return Ok(());
        }
        // The first reservation is exact, because most bodies declare their length.
        let bytes = if self.bytes == 0 {
            bytes
        } else {
            bytes.max(self.bytes + GROWTH_STEP_BYTES)
        };
        let more = (bytes - self.bytes) * self.times;
        // A wait for more than all bodies together may have could never end.
        let more = more.min(self.memory.bytes().saturating_sub(self.reserved_kib * 1024));
        let kib = more.div_ceil(1024);
        let share_permit = self.share.body(kib, self.reserved_kib).await?;
        let memory_permit = acquire(&self.memory, more, Resource::Bodies).await?;
        self.held.push((share_permit, memory_permit));
        (self.bytes, self.reserved_kib) = (bytes, self.reserved_kib + kib);
        Ok(())
    }

    /// Ties the reserved memory to the body. The memory is released when the last part of the body is dropped.
    pub fn hold(self, body: impl Into<Bytes>) -> Bytes {
        let body = body.into();
        if self.held.is_empty() {
            return body;
        }
        with_permit(body, self.held)
    }
}

#[cfg(test)]
mod tests {
    use domain::id::TenantId;
    use futures::FutureExt;

    use super::*;
    use crate::shares::Shares;

    #[tokio::test]
    async fn memory_for_a_body_is_reserved_before_it_is_read() {
        let budget = Budget::within(512_000_000, 1);
        let shares = Shares::new(budget.slots(), budget.body_bytes());
        let of = || shares.for_tenant(TenantId::new());
        let mut small = budget.body(of(), 2);
        small.grow(UNCOUNTED_BYTES).await.unwrap();
        assert!(small.held.is_empty());

        let one = of();
        let mut first = budget.body(Arc::clone(&one), 2);
        first.grow(14 << 20).await.unwrap();
        let mut second = budget.body(one, 2);
        assert!(
            second.grow(14 << 20).now_or_never().is_none(),
            "a tenant's share is half"
        );
        budget.body(of(), 2).grow(14 << 20).await.unwrap();
        let mut others = budget.body(of(), 2);
        others.grow(14 << 20).await.unwrap();
        let third = budget.body(of(), 2).grow(14 << 20).now_or_never();
        assert!(third.is_none(), "all memory is reserved");
        let body = others.hold(vec![1; 14 << 20]);
        let part = body.slice(..1);
        drop(body);
        assert!(budget.body(of(), 2).grow(14 << 20).now_or_never().is_none());
        drop(part);
        assert!(budget.body(of(), 2).grow(14 << 20).now_or_never().is_some());

        // A body that does not declare its length grows, even beyond its tenant's share.
        drop((first, second));
        let mut grows = budget.body(of(), 2);
        for bytes in (1..=29).map(|mebibytes| mebibytes << 20) {
            grows.grow(bytes).await.unwrap();
        }
    }

    #[tokio::test]
    async fn small_images_have_a_render_slot_of_their_own() {
        let budget = Budget::within(512_000_000, 1);
        let large = budget.render_slot(300 << 20).await.unwrap();
        assert!(
            budget.render_slot(60 << 20).now_or_never().is_none(),
            "no slot is free"
        );
        let small = budget
            .render_slot(SMALL_IMAGE_BYTES)
            .now_or_never()
            .unwrap()
            .unwrap();
        assert!(
            budget.render_slot(1_000).now_or_never().is_none(),
            "both slots are taken"
        );
        drop(large);
        assert!(budget.render_slot(1_000).now_or_never().is_some());
        drop(small);
    }
}

//! Renders images on threads of its own, away from the async threads. Only a fixed number of images is rendered at a
//! time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::{sync::Semaphore, task::spawn_blocking};

use domain::generation::image::Recipe;

use super::{ImagingError, Provenance, Rendered, Rendition, clean, render};

/// Limits how many images are rendered at a time. Clones share the limit.
///
/// This also limits memory, because rendering one image may take a few hundred megabytes.
#[derive(Debug, Clone)]
pub struct RenderPool {
    permits: Arc<Semaphore>,
    /// The number of images that can be rendered at a time.
    capacity: usize,
    /// The number of images that wait or are being rendered.
    images: Arc<AtomicUsize>,
}

/// How many cores this process may use, at least 1.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// An upper bound for the time that one image takes, also on a slow machine.
const MAX_RENDER_TIME: Duration = Duration::from_secs(30);

impl RenderPool {
    /// Creates a pool that renders `capacity` images at a time, but at least one.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(capacity)),
            capacity,
            images: Arc::default(),
        }
    }

    /// The number of images that can be rendered at a time, and the number that wait or are being rendered now.
    pub fn capacity_and_load(&self) -> (usize, usize) {
        (self.capacity, self.images.load(Ordering::Relaxed))
    }

    /// The longest time until an image that is added now is done, including all images before it.
    pub fn max_wait(&self) -> Duration {
        let rounds_before = self.images.load(Ordering::Relaxed) / self.capacity;
        MAX_RENDER_TIME.saturating_mul(
            u32::try_from(rounds_before)
                .unwrap_or(u32::MAX)
                .saturating_add(1),
        )
    }

    /// Calls [`render`] as soon as a permit is free.
    ///
    /// # Errors
    /// Returns the errors of [`render`], or `ShuttingDown` if the runtime shuts down first.
    pub async fn render(
        &self,
        original: Bytes,
        recipe: Recipe,
        provenance: Provenance,
    ) -> Result<Rendered, ImagingError> {
        self.run_with_permit(move || render(&original, &recipe, &provenance))
            .await
    }

    /// Calls [`clean`] as soon as a permit is free.
    ///
    /// # Errors
    /// Returns the errors of [`clean`], or `ShuttingDown` if the runtime shuts down first.
    pub async fn clean(&self, file: Bytes, max_bytes: usize) -> Result<Rendition, ImagingError> {
        self.run_with_permit(move || clean(&file, max_bytes)).await
    }

    /// Runs `work` once a permit is free. Work that has begun cannot be stopped. It keeps its permit until it is done,
    /// also when this future is dropped. A future that is dropped while it waits leaves the queue.
    async fn run_with_permit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ImagingError> + Send + 'static,
    ) -> Result<T, ImagingError> {
        let count_guard = CountGuard::new(&self.images);
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        spawn_blocking(move || {
            let _held = (permit, count_guard);
            work()
        })
        .await
        .unwrap_or(Err(ImagingError::ShuttingDown))
    }
}

/// Counts one image in [`RenderPool::images`] until this value is dropped.
struct CountGuard(Arc<AtomicUsize>);

impl CountGuard {
    fn new(images: &Arc<AtomicUsize>) -> Self {
        images.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(images))
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use domain::generation::image::{Format, Pixels, Rendering};

    use super::*;

    #[tokio::test]
    async fn a_dropped_future_keeps_its_permit_until_its_work_ends() {
        let render_pool = RenderPool::new(1);
        let original = super::super::tests::png_original(1400, 1400);
        let recipe = Recipe {
            target: Pixels {
                width: 1376,
                height: 1376,
            },
            format: Format::Webp,
            rendering: Rendering::default(),
        };
        let provenance = Provenance {
            model: "a-model".to_owned(),
            source: "a-job/0".to_owned(),
            synthetic: true,
        };
        let first = render_pool.render(original.clone(), recipe, provenance.clone());
        assert!(
            tokio::time::timeout(Duration::from_millis(1), first)
                .await
                .is_err()
        );
        assert_eq!(render_pool.permits.available_permits(), 0);
        // The permit is returned when the work has ended.
        render_pool
            .render(original, recipe, provenance)
            .await
            .unwrap();
    }
}

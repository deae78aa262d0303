//! Where pictures are rendered: as many at a time as there are cores, and never on an async thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::{sync::Semaphore, task::spawn_blocking};

use common::generation::image::Recipe;

use super::{ImagingError, Provenance, Rendered, Rendition, clean, render};

/// The right to use the CPU for pictures. Clones share the same cores.
///
/// The bound is on memory as much as on cores: one rendition may hold a few hundred megabytes while it is made.
#[derive(Debug, Clone)]
pub struct RenderPool {
    places: Arc<Semaphore>,
    cores: usize,
    /// Pictures that wait or are made.
    pictures: Arc<AtomicUsize>,
}

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// No picture takes longer, on whatever machine.
const MAX_RENDER_TIME: Duration = Duration::from_secs(30);

impl RenderPool {
    /// Room for `cores` pictures at a time, at least one.
    pub fn new(cores: usize) -> Self {
        let cores = cores.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(cores)),
            cores,
            pictures: Arc::default(),
        }
    }

    /// Pictures that are made at once, and those that are made or wait now.
    pub fn places(&self) -> (usize, usize) {
        (self.cores, self.pictures.load(Ordering::Relaxed))
    }

    /// When a picture that comes now is done at the latest, all before it included.
    pub fn max_wait(&self) -> Duration {
        let before = self.pictures.load(Ordering::Relaxed) / self.cores;
        MAX_RENDER_TIME.saturating_mul(u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// [`develop`], as soon as there is a place.
    pub async fn render(
        &self,
        original: Bytes,
        recipe: Recipe,
        mark: Provenance,
    ) -> Result<Rendered, ImagingError> {
        self.work(move || render(&original, &recipe, &mark)).await
    }

    /// [`clean`], as soon as there is a place.
    pub async fn clean(&self, file: Bytes, most: usize) -> Result<Rendition, ImagingError> {
        self.work(move || clean(&file, most)).await
    }

    /// Work that has begun cannot be stopped: it keeps its place until it is done, even when this future is dropped.
    /// Dropping it while it still waits gives up the turn.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ImagingError> + Send + 'static,
    ) -> Result<T, ImagingError> {
        let counted = Counted::new(&self.pictures);
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        spawn_blocking(move || {
            let _place = (place, counted);
            work()
        })
        .await
        .unwrap_or(Err(ImagingError::ShuttingDown))
    }
}

/// One picture more, until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(pictures: &Arc<AtomicUsize>) -> Self {
        pictures.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(pictures))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::generation::image::{Format, Pixels, Rendering};

    use super::*;

    #[tokio::test]
    async fn a_dropped_future_keeps_its_place_until_the_work_is_done() {
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
        let mark = Provenance {
            model: "a-model".to_owned(),
            source: "a-job/0".to_owned(),
            synthetic: true,
        };
        let first = render_pool.render(original.clone(), recipe, mark.clone());
        assert!(
            tokio::time::timeout(Duration::from_millis(1), first)
                .await
                .is_err()
        );
        assert_eq!(render_pool.places.available_permits(), 0);
        // And the place comes back.
        render_pool.render(original, recipe, mark).await.unwrap();
    }
}

//! Where pictures are rendered: as many at a time as there are cores, and never on an async thread.

use std::sync::Arc;

use bytes::Bytes;
use tokio::{sync::Semaphore, task::spawn_blocking};

use common::generation::image::{Format, Pixels};

use super::{ImagingError, Rendition, render};

/// The right to use the CPU for pictures. Clones share the same cores.
///
/// The bound is on memory as much as on cores: one rendition may hold a few hundred megabytes while it is made.
#[derive(Debug, Clone)]
pub struct Darkroom {
    places: Arc<Semaphore>,
}

impl Darkroom {
    /// Room for `cores` pictures at a time, at least one.
    pub fn new(cores: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(cores.clamp(1, Semaphore::MAX_PERMITS))),
        }
    }

    /// [`render`], as soon as there is a place.
    ///
    /// Work that has begun cannot be stopped: it keeps its place until it is done, even when this future is dropped.
    /// Dropping it while it still waits gives up the turn.
    pub async fn render(
        &self,
        original: Bytes,
        target: Pixels,
        format: Format,
    ) -> Result<Rendition, ImagingError> {
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        spawn_blocking(move || {
            let _place = place;
            render(&original, target, format)
        })
        .await
        .unwrap_or(Err(ImagingError::ShuttingDown))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_dropped_future_keeps_its_place_until_the_work_is_done() {
        let darkroom = Darkroom::new(1);
        let original = super::super::tests::png_original(1400, 1400);
        let target = Pixels {
            width: 1376,
            height: 1376,
        };
        let first = darkroom.render(original.clone(), target, Format::Webp);
        assert!(
            tokio::time::timeout(Duration::from_millis(1), first)
                .await
                .is_err()
        );
        assert_eq!(darkroom.places.available_permits(), 0);
        // And the place comes back.
        darkroom
            .render(original, target, Format::Jpeg)
            .await
            .unwrap();
    }
}

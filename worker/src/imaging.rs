//! From a model's original to the exact rendition a customer bought.
//!
//! "1K" and "2K" mean one size each, so whatever a model returns is brought to the pixel table, or refused in words.
//! A rendition is always drawn anew: nothing of the original's container survives, neither its metadata nor its
//! tricks. Originals are kept, so a rendition may be thrown away and rendered again; the same original gives the same
//! bytes.
//!
//! The path is one line per step, in [`render`]: [`decode`] opens the file within limits, [`resize`] brings it to
//! size, [`color`] to sRGB, [`encode`] writes it down. The [`Darkroom`] does this away from the async threads.

mod color;
mod darkroom;
mod decode;
mod encode;
mod resize;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use common::generation::image::{Format, MAX_PIXELS, MAX_SIDE, MediaType, Pixels};

pub use self::darkroom::Darkroom;
use self::decode::Original;

/// Renders `original` at exactly `target` and writes it as `format`. CPU work: call it through a [`Darkroom`].
///
/// The picture covers the target and is cropped around its centre; what differs by more than 5 % in shape, or would
/// have to be enlarged by more than 5 %, is an error, found before anything is decoded.
pub fn render(original: &[u8], target: Pixels, format: Format) -> Result<Rendition, ImagingError> {
    contain_panics(|| {
        let original = Original::open(original)?;
        resize::check(original.width, original.height, target)?;
        let orientation = original.orientation;
        let (pixels, profile) = original.decode()?;

        // Resized first, so that every later step has fewer pixels to visit.
        let mut pixels = resize::cover(pixels, before(orientation, target))?;
        if let Some(profile) = profile {
            color::to_srgb(&mut pixels, &profile);
        }
        pixels.apply_orientation(orientation);

        Ok(Rendition {
            bytes: encode::encode(&pixels, format)?.into(),
            width: pixels.width(),
            height: pixels.height(),
            media_type: format.media_type(),
        })
    })
}

/// A finished picture, ready for the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendition {
    /// The encoded file.
    pub bytes: Bytes,
    /// Pixels across: the target's.
    pub width: u32,
    /// Pixels down: the target's.
    pub height: u32,
    /// As sent in `Content-Type`.
    pub media_type: MediaType,
}

/// Why a picture could not be rendered. The words may be shown to a customer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImagingError {
    /// The first bytes are not those of a format we read.
    #[error("the file is not a PNG, JPEG or WebP picture")]
    NotAPicture,
    /// The file itself is too big to be opened.
    #[error(
        "the file has {bytes} bytes; pictures of up to {} bytes are opened",
        decode::MAX_BYTES
    )]
    TooHeavy {
        /// Size of the file.
        bytes: usize,
    },
    /// The picture would take too much memory; known from the header, nothing was decoded.
    #[error(
        "the picture is {width}×{height} pixels, too large to be opened: \
         up to {} pixels a side and {} megapixels are, fewer at 16 bits a channel",
        MAX_SIDE,
        MAX_PIXELS / 1_000_000
    )]
    TooLarge {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// The file is cut off, damaged, or makes no sense.
    #[error("the {format} file cannot be read: {reason}")]
    Unreadable {
        /// What its first bytes promise.
        format: Format,
        /// In the decoder's words.
        reason: String,
    },
    /// More than 5 % would have to be cropped away.
    #[error(
        "the picture is {width}×{height}, which cannot be cropped to {target}: the shape is too different"
    )]
    WrongShape {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// What was wanted.
        target: Pixels,
    },
    /// The picture would have to be enlarged by more than 5 %.
    #[error("the picture is {width}×{height}, too small to be rendered at {target}")]
    TooSmall {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// What was wanted.
        target: Pixels,
    },
    /// The rendition could not be written.
    #[error("the picture could not be written as {format}: {reason}")]
    NotWritten {
        /// The format asked for.
        format: Format,
        /// In the encoder's words.
        reason: String,
    },
    /// A decoder or encoder broke down on this picture. It would do so again.
    #[error("the picture could not be processed")]
    BrokeDown,
    /// The process is shutting down; another worker can render this picture.
    #[error("the picture was not rendered: this worker is shutting down")]
    ShuttingDown,
}

/// The size to bring stored pixels to, so that they have `target`'s once `orientation` is applied.
fn before(orientation: image::metadata::Orientation, target: Pixels) -> Pixels {
    let (width, height) = decode::turned(orientation, target.width, target.height);
    Pixels { width, height }
}

/// The codecs are other people's code reading other people's files; a panic in one costs that picture, not the worker.
fn contain_panics<T>(work: impl FnOnce() -> Result<T, ImagingError>) -> Result<T, ImagingError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(ImagingError::BrokeDown))
}

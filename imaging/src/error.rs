//! The reasons why an image could not be processed. The texts may be shown to customers.

use domain::generation::image::{Fit, Format, MAX_PIXELS, MAX_SIDE, Pixels};

use super::UnsupportedFormat;
use super::limits::MAX_FILE_BYTES;

/// The reason why an image could not be processed. The text may be shown to a customer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImagingError {
    /// The first bytes are not those of PNG, JPEG or WebP.
    #[error("{0}")]
    NotAnImage(UnsupportedFormat),
    /// The file has too many bytes.
    #[error(
        "the file has {bytes} bytes; images of up to {} bytes are opened",
        MAX_FILE_BYTES
    )]
    FileTooLarge {
        /// The length of the file.
        bytes: usize,
    },
    /// A side is too long, or the pixels would take too much memory. The header says so, and nothing was decoded.
    #[error(
        "the image is {width}×{height} pixels, too large to be opened: \
         images of up to {} pixels a side and {} megapixels are opened, fewer at 16 bits a channel",
        MAX_SIDE,
        MAX_PIXELS / 1_000_000
    )]
    TooLarge {
        /// The width of the image, in pixels.
        width: u32,
        /// The height of the image, in pixels.
        height: u32,
    },
    /// The file is cut off, damaged or invalid.
    #[error("the {format} file cannot be read: {reason}")]
    Unreadable {
        /// The format, by the first bytes of the file.
        format: Format,
        /// What is wrong, as a phrase for people.
        reason: &'static str,
    },
    /// The aspect ratio of the image is too different from what the job asks for, or a side has no pixels.
    #[error(
        "the image is {width}×{height}, which does not become {target} with fit {}: the shape is too different",
        match fit { Fit::Cover => "cover and without allow_crop", Fit::Contain => "contain", Fit::Strict => "strict" }
    )]
    WrongShape {
        /// The width of the image, in pixels.
        width: u32,
        /// The height of the image, in pixels.
        height: u32,
        /// The size that the job asks for.
        target: Pixels,
        /// How the image is to be fitted into that size.
        fit: Fit,
    },
    /// The image would have to be enlarged by more than 5 %, and the job does not allow it.
    #[error("the image is {width}×{height}, too small to become {target} without allow_upscale")]
    TooSmall {
        /// The width of the image, in pixels.
        width: u32,
        /// The height of the image, in pixels.
        height: u32,
        /// The size that the job asks for.
        target: Pixels,
    },
    /// The image could not be encoded.
    #[error("the image could not be written as {format}: {reason}")]
    NotEncoded {
        /// The format that the job asks for.
        format: Format,
        /// The message of the encoder.
        reason: String,
    },
    /// A decoder, the resampler or an encoder panicked, or the decoded pixels did not match the size in the header.
    /// This would happen again with this image.
    #[error("the image could not be processed")]
    Panicked,
    /// The process is shutting down. Another worker can render this image.
    #[error("the image was not rendered: this worker is shutting down")]
    ShuttingDown,
}

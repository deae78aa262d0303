//! Why a picture could not be processed. The texts may be shown to customers.

use domain::generation::image::{Fit, Format, MAX_PIXELS, MAX_SIDE, Pixels};

use super::UnsupportedFormat;
use super::limits::MAX_FILE_BYTES;

/// Why a picture could not be processed. The text may be shown to a customer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImagingError {
    /// The first bytes are not those of PNG, JPEG or WebP.
    #[error("{0}")]
    NotAPicture(UnsupportedFormat),
    /// The file has too many bytes.
    #[error(
        "the file has {bytes} bytes; pictures of up to {} bytes are opened",
        MAX_FILE_BYTES
    )]
    TooHeavy {
        /// The length of the file.
        bytes: usize,
    },
    /// The pixels would take too much memory. Known from the header: nothing was decoded.
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
    /// The file is cut off, damaged or invalid.
    #[error("the {format} file cannot be read: {reason}")]
    Unreadable {
        /// The format by its first bytes.
        format: Format,
        /// What is wrong, as a phrase for people.
        reason: &'static str,
    },
    /// The aspect ratio of the picture is too different from what the job asks for.
    #[error(
        "the picture is {width}×{height}, which does not become {target} with fit {}: the shape is too different",
        match fit { Fit::Cover => "cover and without allow_crop", Fit::Contain => "contain", Fit::Strict => "strict" }
    )]
    WrongShape {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// The size that the job asks for.
        target: Pixels,
        /// How the picture is to be fitted into that size.
        fit: Fit,
    },
    /// The picture would have to be enlarged by more than 5 %, and the job does not allow it.
    #[error("the picture is {width}×{height}, too small to become {target} without allow_upscale")]
    TooSmall {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// The size that the job asks for.
        target: Pixels,
    },
    /// The picture could not be encoded.
    #[error("the picture could not be written as {format}: {reason}")]
    NotWritten {
        /// The format that the job asks for.
        format: Format,
        /// The message of the encoder.
        reason: String,
    },
    /// A decoder or encoder panicked. It would do so again with this picture.
    #[error("the picture could not be processed")]
    BrokeDown,
    /// The process is shutting down. Another worker can render this picture.
    #[error("the picture was not rendered: this worker is shutting down")]
    ShuttingDown,
}

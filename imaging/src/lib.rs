//! From a model's original to the exact rendition a customer bought.
//!
//! "1K" and "2K" mean one size each, so whatever a model returns is brought to the pixel table, or refused in words.
//! A rendition is always drawn anew: nothing of the original's container survives, neither its metadata nor its
//! tricks. Originals are kept, so a rendition may be thrown away and rendered again; the same original gives the same
//! bytes.
//!
//! The path is one line per step, in [`picture`]: [`decode`] opens the file within limits, [`fit`] says what becomes of its
//! size, [`color`] brings it to sRGB, [`resize`] to its size; then [`encode`] writes it down and [`marks`] says what it is.
//! The [`RenderPool`] does this away from the async threads.

mod c2pa;
mod clean;
mod color;
mod decode;
mod encode;
mod exif;
mod fit;
mod jpeg;
mod linear_light;
mod png;
mod provenance;
mod render_pool;
mod resize;
mod sharpen;
#[cfg(test)]
mod tests;
mod thumbnail;
mod unsupported;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use common::generation::image::{Fit, Format, MAX_PIXELS, MAX_SIDE, MediaType, Pixels, Recipe};
use image::DynamicImage;
use image::metadata::Orientation;

use self::decode::Original;
use self::fit::Plan;
pub use self::provenance::Provenance;
pub use self::render_pool::{RenderPool, cores};
pub use self::resize::Space;
pub use self::unsupported::UnsupportedFormat;

/// Makes of `original` all that is delivered. CPU work: call it in a [`RenderPool`].
///
/// What the recipe does not allow is an error, found before anything is decoded. The same original gives the same bytes.
pub fn render(
    original: &[u8],
    recipe: &Recipe,
    mark: &Provenance,
) -> Result<Rendered, ImagingError> {
    contain_panics(|| {
        let picture = picture(original, recipe, Space::Light)?;
        let file = picture.file(recipe)?;
        Ok(Rendered {
            c2pa: c2pa::sha256(original, picture.from),
            thumbnail: thumbnail::of(&picture.pixels, mark)?,
            rendition: Rendition {
                bytes: provenance::write(&file, recipe.format, mark).into(),
                pixels: recipe.target,
                media_type: recipe.format.media_type(),
            },
        })
    })
}

/// What a file is and how large, by its header alone: its format, and its pixels across and down as they are shown.
///
/// # Errors
/// [`ImagingError`] in the words for whoever sent the file, where nothing could be made of it: it is no picture, its header
/// is damaged, or it is too large.
pub fn inspect(file: &[u8]) -> Result<(MediaType, Pixels), ImagingError> {
    contain_panics(|| {
        let Original {
            format,
            width,
            height,
            ..
        } = Original::open(file)?;
        Ok((format.media_type(), Pixels { width, height }))
    })
}

/// The most memory, in bytes, that [`render`] takes of a picture of this size, its file and the results included.
pub fn memory(original: Pixels, target: Pixels) -> usize {
    let area = |pixels: Pixels| u64::from(pixels.width) * u64::from(pixels.height);
    // The file; eight bits of four channels, and for a moment of three; then what resizing and an encoder want.
    let bytes = area(original) * (3 + 4 + 3) + area(target) * 16;
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The most memory, in bytes, that [`clean`] takes of this file, the file itself not included; known from its header.
///
/// # Errors
/// As of [`inspect`].
pub fn memory_to_clean(file: &[u8]) -> Result<usize, ImagingError> {
    contain_panics(|| {
        let original = Original::open(file)?;
        Ok(original.memory().max(clean::memory(&original)))
    })
}

/// What the first bytes of a file say it is. Nothing else of it is looked at.
pub fn media_type(begin: &[u8]) -> Option<MediaType> {
    decode::sniff(begin).map(Format::media_type)
}

/// Writes a picture somebody sent anew, for models to work from: its pixels, upright, in sRGB, and nothing else; of at most 4,096
/// pixels a side and `most` bytes. CPU work: call it in a [`RenderPool`].
pub fn clean(file: &[u8], most: usize) -> Result<Rendition, ImagingError> {
    contain_panics(|| clean::clean(file, most))
}

/// The rendition alone, without a mark: what the work on pixels takes, for measurements.
pub fn rendition(
    original: &[u8],
    recipe: &Recipe,
    space: Space,
) -> Result<Rendition, ImagingError> {
    contain_panics(|| {
        let picture = picture(original, recipe, space)?;
        Ok(Rendition {
            bytes: picture.file(recipe)?.into(),
            pixels: recipe.target,
            media_type: recipe.format.media_type(),
        })
    })
}

/// What the steps of [`rendition`] take by a clock: decoding, resampling with what goes with it, encoding. For profiles.
pub fn steps(
    original: &[u8],
    recipe: &Recipe,
    space: Space,
    clock: impl Fn() -> f64,
) -> Result<[f64; 3], ImagingError> {
    let original = Original::open(original)?;
    let plan = Plan::new(original.width, original.height, recipe)?;
    let orientation = original.orientation;
    let started = clock();
    let decoded = original.decode()?;
    let opened = clock();
    let pixels = drawn(decoded, orientation, plan, space)?;
    let resampled = clock();
    encode::encode(&pixels, recipe.format, recipe.rendering.encoding)?;
    Ok([opened - started, resampled - opened, clock() - resampled])
}

/// Pixels as they will be delivered, and the format they came in.
struct Picture {
    pixels: DynamicImage,
    from: Format,
}

fn picture(bytes: &[u8], recipe: &Recipe, space: Space) -> Result<Picture, ImagingError> {
    let original = Original::open(bytes)?;
    let (width, height) = (original.width, original.height);
    let plan = Plan::new(width, height, recipe)?;
    let (orientation, from) = (original.orientation, original.format);
    let mut pixels = drawn(original.decode()?, orientation, plan, space)?;

    let smaller = width > recipe.target.width || height > recipe.target.height;
    if recipe.rendering.sharpen && smaller {
        sharpen::sharpen(&mut pixels);
    }
    Ok(Picture { pixels, from })
}

/// Pixels as they were stored, upright and as planned.
fn drawn(
    pixels: DynamicImage,
    orientation: Orientation,
    plan: Plan,
    space: Space,
) -> Result<DynamicImage, ImagingError> {
    let lies = matches!(decode::turned(orientation, 0, 1), (1, 0));
    let plan = if lies { plan.on_its_side() } else { plan };
    let mut pixels = resize::resize(plan, pixels, space)?;
    pixels.apply_orientation(orientation);
    Ok(pixels)
}

impl Picture {
    fn file(&self, recipe: &Recipe) -> Result<Vec<u8>, ImagingError> {
        encode::encode(&self.pixels, recipe.format, recipe.rendering.encoding)
    }
}

/// All that is made of one original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// What was bought.
    pub rendition: Rendition,
    /// A small one, for lists.
    pub thumbnail: Rendition,
    /// SHA-256 of the content credentials (C2PA) in the original, where it carries some.
    pub c2pa: Option<[u8; 32]>,
}

/// A finished picture, ready for the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendition {
    /// The encoded file.
    pub bytes: Bytes,
    /// Its size: of a rendition the target's, exactly.
    pub pixels: Pixels,
    /// As sent in `Content-Type`.
    pub media_type: MediaType,
}

/// Why a picture could not be rendered. The words may be shown to a customer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImagingError {
    /// The first bytes are not those of a format we read.
    #[error("{0}")]
    NotAPicture(UnsupportedFormat),
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
        /// In words for people.
        reason: &'static str,
    },
    /// The picture has another shape than its job takes.
    #[error(
        "the picture is {width}×{height}, which does not become {target} with fit {}: the shape is too different",
        match fit { Fit::Cover => "cover and without allow_crop", Fit::Contain => "contain", Fit::Strict => "strict" }
    )]
    WrongShape {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// What was wanted.
        target: Pixels,
        /// How.
        fit: Fit,
    },
    /// The picture would have to be enlarged by more than 5 %.
    #[error("the picture is {width}×{height}, too small to become {target} without allow_upscale")]
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

/// The codecs are other people's code reading other people's files; a panic in one costs that picture, not the worker.
fn contain_panics<T>(work: impl FnOnce() -> Result<T, ImagingError>) -> Result<T, ImagingError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(ImagingError::BrokeDown))
}

//! Turns a model's original into the exact picture that a customer pays for.
//!
//! "1K" and "2K" mean exact sizes, so whatever a model returns is brought to the size in the pixel table, or refused with
//! a reason. A rendition is always encoded anew: no metadata and no other content of the original file is copied. Originals
//! are kept, so a rendition can be deleted and rendered again: the same original gives the same bytes.
//!
//! [`render`] does these steps: [`decode`] opens the file within limits and [`color`] converts it to sRGB, [`fit`] decides
//! how it gets its size, [`resize`] resamples it, [`encode`] writes it, and [`provenance`] adds what it says about itself. The
//! [`RenderPool`] does this away from the async threads.

mod c2pa;
mod clean;
mod color;
mod decode;
mod encode;
mod error;
mod exif;
mod fit;
mod jpeg;
mod limits;
mod linear_light;
mod png;
mod provenance;
mod render_pool;
mod rendition;
mod resize;
mod sharpen;
#[cfg(test)]
mod tests;
mod thumbnail;
mod unsupported;

use std::panic::{AssertUnwindSafe, catch_unwind};

use domain::generation::image::{Format, MediaType, Pixels, Recipe};
use image::DynamicImage;
use image::metadata::Orientation;

use self::decode::Original;
pub use self::error::ImagingError;
use self::fit::Plan;
pub use self::provenance::Provenance;
pub use self::render_pool::{RenderPool, cores};
pub use self::rendition::{Rendered, Rendition};
pub use self::resize::Space;
pub use self::unsupported::UnsupportedFormat;

/// Renders an original: the rendition and its thumbnail. CPU work: call it in a [`RenderPool`].
///
/// The same original, recipe and provenance give the same bytes.
///
/// # Errors
/// [`ImagingError`] if the file cannot be read, or if the recipe does not allow its size or shape. The latter is found
/// before anything is decoded.
pub fn render(
    original: &[u8],
    recipe: &Recipe,
    provenance: &Provenance,
) -> Result<Rendered, ImagingError> {
    contain_panics(|| {
        let picture = picture(original, recipe, Space::Light)?;
        let file = picture.file(recipe)?;
        Ok(Rendered {
            c2pa: c2pa::sha256(original, picture.source_format),
            thumbnail: thumbnail::of(&picture.pixels, provenance)?,
            rendition: Rendition {
                bytes: provenance::write(&file, recipe.format, provenance).into(),
                pixels: recipe.target,
                media_type: recipe.format.media_type(),
            },
        })
    })
}

/// The media type and the size of a file, by its header alone. The size is that of the upright picture.
///
/// # Errors
/// [`ImagingError`] if the file is not a PNG, JPEG or WebP picture, its header is damaged, or it is too large. The text is
/// for the person who sent the file.
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

/// The most memory, in bytes, that [`render`] takes for an original of this size, including the file and the results.
pub fn memory(original: Pixels, target: Pixels) -> usize {
    let area = |pixels: Pixels| u64::from(pixels.width) * u64::from(pixels.height);
    // For each pixel of the original: 3 for the file, 4 for RGBA, 3 for RGB made of it. Then resizing and encoding: measured.
    let bytes = area(original) * (3 + 4 + 3) + area(target) * 16;
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The most memory, in bytes, that [`clean`] takes for this file, without the file itself. Known from its header.
///
/// # Errors
/// As [`inspect`].
pub fn memory_to_clean(file: &[u8]) -> Result<usize, ImagingError> {
    contain_panics(|| {
        let original = Original::open(file)?;
        Ok(original.memory().max(clean::memory(&original)))
    })
}

/// The media type of a file by its first bytes. `None` if it is not PNG, JPEG or WebP. Nothing else is checked.
pub fn media_type(head: &[u8]) -> Option<MediaType> {
    decode::sniff(head).map(Format::media_type)
}

/// Encodes an uploaded picture anew, as input for models: upright, in sRGB, without metadata, at most 4,096 pixels a side and
/// `max_bytes` long. CPU work: call it in a [`RenderPool`].
///
/// # Errors
/// [`ImagingError`] if the file cannot be read.
pub fn clean(file: &[u8], max_bytes: usize) -> Result<Rendition, ImagingError> {
    contain_panics(|| clean::clean(file, max_bytes))
}

/// The rendition alone, without provenance. For measurements.
///
/// # Errors
/// As [`render`].
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

/// How long decoding, resampling and encoding take, in the unit of `clock`. For measurements.
///
/// # Errors
/// As [`render`].
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
    let decoded_at = clock();
    let pixels = upright(decoded, orientation, plan, space)?;
    let resampled = clock();
    encode::encode(&pixels, recipe.format, recipe.rendering.encoding)?;
    Ok([
        decoded_at - started,
        resampled - decoded_at,
        clock() - resampled,
    ])
}

/// The pixels of a rendition, and the format of the original.
struct Picture {
    pixels: DynamicImage,
    source_format: Format,
}

fn picture(bytes: &[u8], recipe: &Recipe, space: Space) -> Result<Picture, ImagingError> {
    let original = Original::open(bytes)?;
    let (width, height) = (original.width, original.height);
    let plan = Plan::new(width, height, recipe)?;
    let (orientation, source_format) = (original.orientation, original.format);
    let mut pixels = upright(original.decode()?, orientation, plan, space)?;

    let is_reduced = width > recipe.target.width || height > recipe.target.height;
    if recipe.rendering.sharpen && is_reduced {
        sharpen::sharpen(&mut pixels);
    }
    Ok(Picture {
        pixels,
        source_format,
    })
}

/// Carries out a plan on pixels as they were stored, and turns them upright.
fn upright(
    pixels: DynamicImage,
    orientation: Orientation,
    plan: Plan,
    space: Space,
) -> Result<DynamicImage, ImagingError> {
    // Turn after resizing: there are fewer pixels then. So the plan is turned first.
    let swaps_sides = matches!(decode::turned(orientation, 0, 1), (1, 0));
    let plan = if swaps_sides { plan.transposed() } else { plan };
    let mut pixels = resize::resize(plan, pixels, space)?;
    pixels.apply_orientation(orientation);
    Ok(pixels)
}

impl Picture {
    fn file(&self, recipe: &Recipe) -> Result<Vec<u8>, ImagingError> {
        encode::encode(&self.pixels, recipe.format, recipe.rendering.encoding)
    }
}

/// Turns a panic into an error: a codec that panics on a hostile file must not end the worker.
fn contain_panics<T>(work: impl FnOnce() -> Result<T, ImagingError>) -> Result<T, ImagingError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(ImagingError::BrokeDown))
}

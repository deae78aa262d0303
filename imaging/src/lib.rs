//! Turns a model's original into the exact image that a customer pays for.
//!
//! "1K" and "2K" mean exact sizes. So whatever a model returns is brought to the size in the pixel table, or is refused
//! with a reason. A rendition is always encoded anew, and neither metadata nor anything else of the original file is
//! copied. Originals are kept, so a rendition can be deleted and rendered again. The same original gives the same
//! bytes.
//!
//! [`render`] does these steps:
//!
//! 1. [`decode`] opens the file within limits, and [`color`] converts its pixels to sRGB.
//! 2. [`fit`] decides what is scaled, cropped or padded.
//! 3. [`resize`] resamples the pixels. Rows that need no conversion are resampled as they are decoded.
//! 4. [`encode`] writes the file.
//! 5. [`provenance`] adds where the image comes from.
//!
//! The [`RenderPool`] does this on threads of its own, away from the async threads.

mod buffer;
mod c2pa;
mod clean;
mod color;
mod decode;
mod encode;
mod error;
mod exif;
mod filter;
mod fit;
mod jpeg;
mod limits;
mod linear_light;
mod png;
mod provenance;
mod render_pool;
mod rendition;
mod resample;
mod resize;
mod sharpen;
#[cfg(test)]
mod tests;
mod thumbnail;
mod unsupported;

use std::panic::{AssertUnwindSafe, catch_unwind};

use domain::generation::image::{Format, MediaType, Pixels, Recipe};
use image::DynamicImage;

use self::decode::Original;
pub use self::error::ImagingError;
use self::filter::Filter;
use self::fit::Plan;
pub use self::provenance::Provenance;
pub use self::render_pool::{RenderPool, cores};
pub use self::rendition::{Rendered, Rendition};
pub use self::resize::ResampleSpace;
pub use self::unsupported::UnsupportedFormat;

/// Makes the rendition of an original, and its thumbnail. This is CPU work, so call it in a [`RenderPool`].
///
/// The same original, recipe and provenance give the same bytes.
///
/// # Errors
/// Returns an [`ImagingError`] if the file cannot be read, or if the recipe does not allow the original's size or
/// shape. Size and shape are checked before anything is decoded.
pub fn render(
    original: &[u8],
    recipe: &Recipe,
    provenance: &Provenance,
) -> Result<Rendered, ImagingError> {
    contain_panics(|| {
        let image = fitted_image(original, recipe, ResampleSpace::Linear)?;
        let file = image.encode(recipe)?;
        Ok(Rendered {
            c2pa: c2pa::sha256(original, image.source_format),
            thumbnail: thumbnail::from_pixels(&image.pixels, provenance)?,
            rendition: Rendition {
                bytes: provenance::write(&file, recipe.format, provenance).into(),
                pixels: recipe.target,
                media_type: recipe.format.media_type(),
            },
        })
    })
}

/// Reads the media type and the size of a file from its header alone. The size is that of the upright image.
///
/// # Errors
/// Returns an [`ImagingError`] if the file is not a PNG, JPEG or WebP image, if its header is damaged, or if it is too
/// large. The text of the error is for the person who sent the file.
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

/// The most memory, in bytes, that [`render`] takes for this file, including the file and the results. Only the header
/// is read. Most files need a third of what [`memory`] says, because their rows are resampled as they are decoded.
///
/// # Errors
/// Returns an [`ImagingError`] if the file is not a PNG, JPEG or WebP image, if its header is damaged, or if it is too
/// large.
pub fn memory_to_render(file: &[u8], recipe: &Recipe) -> Result<usize, ImagingError> {
    contain_panics(|| {
        let original = Original::open(file)?;
        let (width, height, stored) = (original.width, original.height, original.stored_size());
        let most = memory(Pixels { width, height }, recipe.target);
        let Ok(plan) = Plan::new(width, height, recipe) else {
            return Ok(most);
        };
        let plan = plan.turned(original.orientation);
        let decoding = original.memory_by_rows();
        Ok(match decoding.filter(|_| stored != plan.scaled) {
            Some(decoding) => {
                let resampling = resample::memory(stored, plan.scaled);
                file.len() + decoding + resampling + memory_of_result(recipe.target)
            }
            None => most,
        })
    })
}

/// The most memory, in bytes, that [`render`] takes for any original of this size with eight bits a channel, including
/// the file and the results.
pub fn memory(original: Pixels, target: Pixels) -> usize {
    // For each pixel of the original: 3 bytes for the file, 4 for RGBA, 3 for RGB made from the RGBA.
    area(original)
        .saturating_mul(3 + 4 + 3)
        .saturating_add(memory_of_result(target))
}

/// The most memory, in bytes, that resized pixels take together with their files and with what encoders need. The 16
/// bytes for each pixel are measured.
fn memory_of_result(target: Pixels) -> usize {
    area(target).saturating_mul(16)
}

fn area(pixels: Pixels) -> usize {
    (pixels.width as usize).saturating_mul(pixels.height as usize)
}

/// The most memory, in bytes, that [`clean`] takes for this file, without the file itself. Only the header is read.
///
/// # Errors
/// Returns an [`ImagingError`] if the file is not a PNG, JPEG or WebP image, if its header is damaged, or if it is too
/// large.
pub fn memory_to_clean(file: &[u8]) -> Result<usize, ImagingError> {
    contain_panics(|| {
        let original = Original::open(file)?;
        Ok(original.memory().max(clean::memory(&original)))
    })
}

/// The media type of a file by its first bytes. Returns `None` if the file is not PNG, JPEG or WebP. Nothing else is
/// checked.
pub fn media_type(head: &[u8]) -> Option<MediaType> {
    decode::sniff(head).map(Format::media_type)
}

/// Encodes an uploaded image anew, as input for models: upright, in sRGB, without metadata, at most 4,096
/// pixels a side and `max_bytes` long. This is CPU work, so call it in a [`RenderPool`].
///
/// # Errors
/// Returns an [`ImagingError`] if the file cannot be read.
pub fn clean(file: &[u8], max_bytes: usize) -> Result<Rendition, ImagingError> {
    contain_panics(|| clean::clean(file, max_bytes))
}

/// Makes the rendition alone, without provenance and thumbnail. Used for measurements.
///
/// # Errors
/// Returns an [`ImagingError`] if the file cannot be read, or if the recipe does not allow the original's size or
/// shape.
pub fn rendition(
    original: &[u8],
    recipe: &Recipe,
    space: ResampleSpace,
) -> Result<Rendition, ImagingError> {
    contain_panics(|| {
        let image = fitted_image(original, recipe, space)?;
        Ok(Rendition {
            bytes: image.encode(recipe)?.into(),
            pixels: recipe.target,
            media_type: recipe.format.media_type(),
        })
    })
}

/// Measures how long decoding, resampling and encoding take, in this order and in the unit of `clock`. Sharpening is
/// left out.
///
/// # Errors
/// Returns an [`ImagingError`] if the file cannot be read, or if the recipe does not allow the original's size or
/// shape.
pub fn measure_steps(
    original: &[u8],
    recipe: &Recipe,
    space: ResampleSpace,
    clock: impl Fn() -> f64,
) -> Result<[f64; 3], ImagingError> {
    let open = || Original::open(original);
    let plan = Plan::new(open()?.width, open()?.height, recipe)?;
    let started = clock();
    open()?.decode_rows_or_all(|_| ())?;
    let decoded = clock();
    // Decoding and resampling run together, row by row. So resampling takes what both take, less what decoding alone
    // took.
    let pixels = decode_and_resize(open()?, plan, space)?;
    let resized = clock();
    encode::encode(&pixels, recipe.format, recipe.rendering.encoding)?;
    let (decoding, both) = (decoded - started, resized - decoded);
    Ok([decoding, both - decoding, clock() - resized])
}

/// The pixels of a rendition before they are encoded, and the format of the original.
struct FittedImage {
    pixels: DynamicImage,
    source_format: Format,
}

/// Decodes an original, fits it into the size of the recipe, and sharpens it if the recipe asks for this and a side was
/// reduced.
fn fitted_image(
    bytes: &[u8],
    recipe: &Recipe,
    space: ResampleSpace,
) -> Result<FittedImage, ImagingError> {
    let original = Original::open(bytes)?;
    let (width, height) = (original.width, original.height);
    let plan = Plan::new(width, height, recipe)?;
    let source_format = original.format;
    let mut pixels = decode_and_resize(original, plan, space)?;

    let is_reduced = width > recipe.target.width || height > recipe.target.height;
    if recipe.rendering.sharpen && is_reduced {
        sharpen::sharpen(&mut pixels);
    }
    Ok(FittedImage {
        pixels,
        source_format,
    })
}

/// Decodes an image, resizes it by a plan, and turns it upright.
fn decode_and_resize(
    original: Original<'_>,
    plan: Plan,
    space: ResampleSpace,
) -> Result<DynamicImage, ImagingError> {
    let orientation = original.orientation;
    let stored = original.stored_size();
    // The pixels are turned after resizing, because there are fewer pixels then. So the plan must be turned before.
    let plan = plan.turned(orientation);
    let mut pixels = if stored == plan.scaled {
        resize::resize(plan, original.decode()?, space)?
    } else {
        let mut resampler = resize::resampler::<3>(stored, plan, space, Filter::Lanczos);
        match original.decode_rows_or_all(|row| resampler.add(row))? {
            Some(pixels) => resize::resize(plan, pixels, space)?,
            None => {
                let scaled = resize::into_rgb(plan, resampler).ok_or(ImagingError::Panicked)?;
                resize::pad(scaled, plan)
            }
        }
    };
    pixels.apply_orientation(orientation);
    Ok(pixels)
}

impl FittedImage {
    fn encode(&self, recipe: &Recipe) -> Result<Vec<u8>, ImagingError> {
        encode::encode(&self.pixels, recipe.format, recipe.rendering.encoding)
    }
}

/// Turns a panic into an error, because a codec that panics on a hostile file must not end the worker.
fn contain_panics<T>(work: impl FnOnce() -> Result<T, ImagingError>) -> Result<T, ImagingError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(ImagingError::Panicked))
}

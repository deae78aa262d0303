//! Makes the thumbnail: a WebP of at most [`MAX_SIDE`] pixels a side and about 10 KB. On a screen with two pixels for
//! each CSS pixel, the thumbnail is sharp when it is shown at half that size.

use domain::generation::image::Format;
use image::DynamicImage;

use super::filter::Filter;
use super::fit::Plan;
use super::provenance::{self, Provenance};
use super::resize::{self, ResampleSpace};
use super::{ImagingError, Rendition, encode};

/// The longest side of a thumbnail, in pixels.
const MAX_SIDE: u32 = 320;
/// The quality of the WebP file, from 1 to 100.
const QUALITY: u8 = 75;

/// Makes the thumbnail of a rendition from its pixels before they are encoded.
pub(super) fn from_pixels(
    pixels: &DynamicImage,
    provenance: &Provenance,
) -> Result<Rendition, ImagingError> {
    let plan = Plan::within_square(pixels.width(), pixels.height(), MAX_SIDE);
    let small = resize::resample(pixels, plan, ResampleSpace::Linear, Filter::Hamming)
        .ok_or(ImagingError::Panicked)?;
    let file = encode::small_webp(&small, QUALITY)?;
    Ok(Rendition {
        bytes: provenance::write(&file, Format::Webp, provenance).into(),
        pixels: plan.scaled,
        media_type: Format::Webp.media_type(),
    })
}

//! A small picture for lists: at most [`SIDE`] pixels a side, which is sharp at half that size on a dense screen, and some ten
//! kilobytes.

use common::generation::image::{Encoding, Format};
use image::DynamicImage;

use super::fit::Plan;
use super::provenance::{self, Provenance};
use super::resize::{self, Space};
use super::{ImagingError, Rendition, encode};

/// Pixels of the longer side.
const SIDE: u32 = 320;
/// Of 100.
const QUALITY: u8 = 75;

/// Of finished pixels.
pub(super) fn of(pixels: &DynamicImage, mark: &Provenance) -> Result<Rendition, ImagingError> {
    let plan = Plan::inside(pixels.width(), pixels.height(), SIDE);
    let encoding = Encoding {
        quality: Some(QUALITY),
        ..Encoding::default()
    };
    let small = resize::resample(pixels, plan, Space::Values).ok_or(ImagingError::BrokeDown)?;
    let file = encode::encode(&small, Format::Webp, encoding)?;
    Ok(Rendition {
        bytes: provenance::write(&file, Format::Webp, mark).into(),
        pixels: plan.scaled,
        media_type: Format::Webp.media_type(),
    })
}

//! A small picture for lists: at most [`SIDE`] pixels a side, which is sharp at half that size on a dense screen, and some ten
//! kilobytes.

use common::generation::image::{Encoding, Fit, Format, Pixels, Recipe, Rendering};
use image::DynamicImage;

use super::fit::Plan;
use super::marks::{self, Mark};
use super::resize::{self, Space};
use super::{ImagingError, Rendition, encode};

/// Pixels of the longer side.
const SIDE: u32 = 320;
/// Of 100.
const QUALITY: u8 = 75;

/// Of finished pixels.
pub(super) fn of(pixels: &DynamicImage, mark: &Mark) -> Result<Rendition, ImagingError> {
    let (width, height) = (pixels.width(), pixels.height());
    let rendering = Rendering {
        fit: Fit::Contain,
        encoding: Encoding {
            quality: Some(QUALITY),
            ..Encoding::default()
        },
        ..Rendering::default()
    };
    let side = SIDE.min(width.max(height));
    let square = Recipe {
        target: Pixels {
            width: side,
            height: side,
        },
        format: Format::Webp,
        rendering,
    };
    let scaled = Plan::new(width, height, &square)?.scaled;
    let plan = Plan {
        scaled,
        crops: false,
        target: scaled,
    };
    let small = resize::resample(pixels, plan, Space::Values).ok_or(ImagingError::BrokeDown)?;
    let file = encode::encode(&small, Format::Webp, square.rendering.encoding)?;
    Ok(Rendition {
        bytes: marks::write(&file, Format::Webp, mark).into(),
        pixels: scaled,
        media_type: Format::Webp.media_type(),
    })
}

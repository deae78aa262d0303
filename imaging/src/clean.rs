//! A picture somebody sent, written anew for models to work from: upright, in sRGB, small enough for any of them, and nothing
//! but pixels. Where it was taken, by what and when is not in it any more.

use common::generation::image::{Chroma, Encoding, Format, Pixels};

use super::decode::Original;
use super::fit::Plan;
use super::resize::{self, Space};
use super::{ImagingError, Rendition, drawn, encode};

/// Longest side, in pixels. No model looks at more.
const SIDE: u32 = 4096;
/// Qualities, of 100, that a picture is written with when it is not kept to the pixel: the first that is small enough.
const QUALITIES: [(u8, Chroma); 2] = [(95, Chroma::Full), (85, Chroma::Quarter)];

pub(super) fn clean(file: &[u8], most: usize) -> Result<Rendition, ImagingError> {
    let original = Original::open(file)?;
    let (from, orientation) = (original.format, original.orientation);
    let plan = Plan::inside(original.width, original.height, SIDE);
    let mut pixels = drawn(original.decode()?, orientation, plan, Space::Light)?;
    loop {
        for (format, encoding) in encodings(from, pixels.color().has_alpha()) {
            let bytes = encode::encode(&pixels, format, encoding)?;
            if bytes.len() <= most {
                return Ok(Rendition {
                    bytes: bytes.into(),
                    pixels: Pixels {
                        width: pixels.width(),
                        height: pixels.height(),
                    },
                    media_type: format.media_type(),
                });
            }
        }
        // Noise, and too much of it: a smaller picture will do.
        let side = pixels.width().max(pixels.height()) / 4 * 3;
        let plan = Plan::inside(pixels.width(), pixels.height(), side);
        pixels = resize::resample(&pixels, plan, Space::Light).ok_or(ImagingError::BrokeDown)?;
    }
}

/// The most memory, in bytes, that resizing and encoding take once the pixels are decoded.
pub(super) fn memory(original: &Original<'_>) -> usize {
    let area = |width: u32, height: u32| width as usize * height as usize;
    let plan = Plan::inside(original.width, original.height, SIDE);
    let target = area(plan.target.width, plan.target.height);
    let decoded = area(original.width, original.height) * 4;
    // Pixels of both sizes; then the smaller ones, and what an encoder makes of them: measured.
    (decoded + target * 4).max(target * 12)
}

/// How it may be written, best first: a PNG to the pixel, else what keeps all that is to be seen.
fn encodings(from: Format, has_alpha: bool) -> impl Iterator<Item = (Format, Encoding)> {
    let format = if has_alpha {
        Format::Webp
    } else {
        Format::Jpeg
    };
    let seen = QUALITIES.map(|(quality, chroma)| Encoding {
        quality: Some(quality),
        chroma,
        ..Encoding::default()
    });
    let to_the_pixel = (from == Format::Png).then_some((Format::Png, Encoding::default()));
    let seen = seen.into_iter().map(move |encoding| (format, encoding));
    to_the_pixel.into_iter().chain(seen)
}

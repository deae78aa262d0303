//! Encodes an uploaded image anew, as input for models: upright, in sRGB, small enough for all of them, without
//! metadata. Because no metadata is copied, the place, the camera and the time of a photo are removed.

use domain::generation::image::{Chroma, Encoding, Format, Pixels};

use super::decode::Original;
use super::filter::Filter;
use super::fit::Plan;
use super::resize::{self, ResampleSpace};
use super::{ImagingError, Rendition, decode_and_resize, encode};

/// The longest side of the result, in pixels. No model uses more.
const MAX_SIDE: u32 = 4096;
/// The qualities (1 to 100) and chroma sampling for lossy encoding. The first pair that gives a small enough file is
/// used.
const QUALITIES: [(u8, Chroma); 2] = [(95, Chroma::Full), (85, Chroma::Quarter)];

/// Encodes an uploaded image anew, as [`super::clean`] describes.
pub(super) fn clean(file: &[u8], max_bytes: usize) -> Result<Rendition, ImagingError> {
    let original = Original::open(file)?;
    let source_format = original.format;
    let plan = Plan::within_square(original.width, original.height, MAX_SIDE);
    let mut pixels = decode_and_resize(original, plan, ResampleSpace::Linear)?;
    loop {
        for (format, encoding) in encodings(source_format, pixels.color().has_alpha()) {
            let bytes = encode::encode(&pixels, format, encoding)?;
            if bytes.len() <= max_bytes {
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
        // Even the last quality gave a file that is too large, as happens with noise. So use fewer pixels: three
        // quarters of each side.
        let side = pixels.width().max(pixels.height()) / 4 * 3;
        let plan = Plan::within_square(pixels.width(), pixels.height(), side);
        pixels = resize::resample(&pixels, plan, ResampleSpace::Linear, Filter::Lanczos)
            .ok_or(ImagingError::Panicked)?;
    }
}

/// The most memory, in bytes, that resizing and encoding take after the pixels are decoded.
pub(super) fn memory(original: &Original<'_>) -> usize {
    let area = |width: u32, height: u32| width as usize * height as usize;
    let plan = Plan::within_square(original.width, original.height, MAX_SIDE);
    let target = area(plan.target.width, plan.target.height);
    let decoded = area(original.width, original.height) * 4;
    // Resizing holds the pixels of both sizes. Encoding takes 12 bytes for each pixel of the target, as measured.
    (decoded + target * 4).max(target * 12)
}

/// The encodings to try, best first. A PNG stays lossless if it is small enough.
fn encodings(source_format: Format, has_alpha: bool) -> impl Iterator<Item = (Format, Encoding)> {
    let format = if has_alpha {
        Format::Webp
    } else {
        Format::Jpeg
    };
    let lossy = QUALITIES.map(|(quality, chroma)| Encoding {
        quality: Some(quality),
        chroma,
        ..Encoding::default()
    });
    let lossless = (source_format == Format::Png).then_some((Format::Png, Encoding::default()));
    let lossy = lossy.into_iter().map(move |encoding| (format, encoding));
    lossless.into_iter().chain(lossy)
}

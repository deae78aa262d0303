//! Writing pixels down. The encoders are given pixels and nothing else, so nothing else can leak.

use image::{
    DynamicImage, ImageEncoder, RgbImage,
    codecs::png::{CompressionType, FilterType, PngEncoder},
};
use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, SamplingFactor};
use webp::{PixelLayout, WebPConfig};

use common::generation::image::Format;

use super::ImagingError;

/// Of 100. Above 90 a JPEG grows faster than it improves.
const JPEG_QUALITY: u8 = 90;
/// Of 100. Less than half of the JPEG's bytes.
const WEBP_QUALITY: f32 = 85.0;

/// Encodes eight-bit RGB or RGBA.
pub(super) fn encode(pixels: &DynamicImage, format: Format) -> Result<Vec<u8>, ImagingError> {
    match format {
        Format::Png => png(pixels),
        Format::Jpeg => jpeg(pixels),
        Format::Webp => webp(pixels),
    }
    .map_err(|reason| ImagingError::NotWritten { format, reason })
}

/// Level 2 is where PNG pays: up to a third smaller than the fast level on a grainy picture, within a tenth of the
/// default level in a sixth of its time.
fn png(pixels: &DynamicImage) -> Result<Vec<u8>, String> {
    let mut file = Vec::new();
    PngEncoder::new_with_quality(&mut file, CompressionType::Level(2), FilterType::Adaptive)
        .write_image(
            pixels.as_bytes(),
            pixels.width(),
            pixels.height(),
            pixels.color().into(),
        )
        .map_err(|error| error.to_string())?;
    Ok(file)
}

fn jpeg(pixels: &DynamicImage) -> Result<Vec<u8>, String> {
    let flattened;
    let rgb = match pixels.as_rgb8() {
        Some(rgb) => rgb,
        None => {
            flattened = on_white(pixels);
            &flattened
        }
    };
    let side = |pixels| u16::try_from(pixels).map_err(|_| "a side is too long".to_owned());

    let mut file = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut file, JPEG_QUALITY);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    // The default takes one pixel's colour for four: 1.6 dB worse, and jagged where two colours meet.
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    // Optimised tables would save 3 %, but this encoder then writes one scan per channel, which widespread decoders
    // get wrong (see `decode.rs`).
    encoder.set_optimized_huffman_tables(false);
    encoder
        .encode(rgb, side(rgb.width())?, side(rgb.height())?, ColorType::Rgb)
        .map_err(|error| error.to_string())?;
    Ok(file)
}

fn webp(pixels: &DynamicImage) -> Result<Vec<u8>, String> {
    let layout = if pixels.color().has_alpha() {
        PixelLayout::Rgba
    } else {
        PixelLayout::Rgb
    };
    let mut config =
        WebPConfig::new().map_err(|()| "the library has another version".to_owned())?;
    config.quality = WEBP_QUALITY;
    webp::Encoder::new(pixels.as_bytes(), layout, pixels.width(), pixels.height())
        .encode_advanced(&config)
        .map(|file| file.to_vec())
        .map_err(|error| format!("{error:?}"))
}

/// What a transparent picture looks like on paper, which is what a product page is.
fn on_white(pixels: &DynamicImage) -> RgbImage {
    let mut rgba = pixels.to_rgba8();
    for [red, green, blue, alpha] in rgba.as_chunks_mut().0 {
        let cover = u16::from(*alpha);
        for channel in [red, green, blue] {
            let mixed = (u16::from(*channel) * cover + 255 * (255 - cover) + 127) / 255;
            *channel = u8::try_from(mixed).expect("a mean of two bytes is a byte");
        }
    }
    DynamicImage::from(rgba).into_rgb8()
}

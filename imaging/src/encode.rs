//! Encodes pixels. The encoders get only pixels, so no metadata of the original can leak.
//!
//! Decoders read untrusted files, so they are in safe Rust. Encoders read only our own pixels, so JPEG and WebP may be
//! written by C libraries (libjpeg-turbo and libwebp).

use image::{
    DynamicImage, ImageEncoder, RgbImage,
    codecs::png::{CompressionType, FilterType, PngEncoder},
};
use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};
use webp::{PixelLayout, WebPConfig};

use domain::generation::image::{Chroma, Encoding, Format};

use super::ImagingError;

/// The default quality of JPEG, from 1 to 100. Above 90 the file grows much and the image improves little.
const JPEG_QUALITY: u8 = 90;
/// The default quality of WebP, from 1 to 100. The file has less than half of the bytes of the JPEG.
const WEBP_QUALITY: u8 = 85;
/// The effort of the WebP encoder, 0 to 6. Effort 4 takes more than twice as long as 2, and saves 3 % of the bytes.
const WEBP_METHOD: i32 = 2;
/// How many kinds of areas the WebP encoder tells apart, 1 to 4, to give each a quality of its own. With one kind it skips
/// a pass over the image, which is worth it for small images only.
const WEBP_SEGMENTS: i32 = 4;
const SMALL_WEBP_SEGMENTS: i32 = 1;

/// Encodes eight-bit RGB or RGBA pixels.
pub(super) fn encode(
    pixels: &DynamicImage,
    format: Format,
    encoding: Encoding,
) -> Result<Vec<u8>, ImagingError> {
    match format {
        Format::Png => png(pixels),
        Format::Jpeg => jpeg(pixels, encoding),
        Format::Webp => webp(pixels, encoding, WEBP_SEGMENTS),
    }
    .map_err(|reason| ImagingError::NotEncoded { format, reason })
}

/// Encodes a small image, such as a thumbnail, as WebP. `quality` is from 1 to 100.
pub(super) fn small_webp(pixels: &DynamicImage, quality: u8) -> Result<Vec<u8>, ImagingError> {
    let encoding = Encoding {
        quality: Some(quality),
        ..Encoding::default()
    };
    webp(pixels, encoding, SMALL_WEBP_SEGMENTS).map_err(|reason| ImagingError::NotEncoded {
        format: Format::Webp,
        reason,
    })
}

/// Encodes a PNG. Graphics are compressed with more effort, see [`is_graphic`].
fn png(pixels: &DynamicImage) -> Result<Vec<u8>, String> {
    let mut file = Vec::with_capacity(pixels.as_bytes().len() / 2);
    let (compression, filter) = if is_graphic(pixels) {
        (CompressionType::Level(2), FilterType::Adaptive)
    } else {
        (CompressionType::Fast, FilterType::Paeth)
    };
    PngEncoder::new_with_quality(&mut file, compression, filter)
        .write_image(
            pixels.as_bytes(),
            pixels.width(),
            pixels.height(),
            pixels.color().into(),
        )
        .map_err(|error| error.to_string())?;
    Ok(file)
}

/// Whether most pixels equal their right neighbor, as in text and line art. About 64 rows are examined. With more
/// effort the files of such images become much smaller, but those of photographs do not.
fn is_graphic(pixels: &DynamicImage) -> bool {
    const ROWS: usize = 64;
    let channels = usize::from(pixels.color().channel_count());
    let row_bytes = pixels.width() as usize * channels;
    let row_step = (pixels.height() as usize / ROWS).max(1);
    let rows = (pixels.as_bytes())
        .chunks_exact(row_bytes.max(1))
        .step_by(row_step);
    let (mut equal, mut all) = (0, 0);
    for row in rows {
        let next = row[channels.min(row.len())..].chunks_exact(channels);
        equal += row
            .chunks_exact(channels)
            .zip(next)
            .filter(|(a, b)| a == b)
            .count();
        all += row.len() / channels;
    }
    equal * 2 > all
}

fn jpeg(pixels: &DynamicImage, encoding: Encoding) -> Result<Vec<u8>, String> {
    let flattened;
    let rgb = match pixels.as_rgb8() {
        Some(rgb) => rgb,
        None => {
            flattened = on_white(pixels);
            &flattened
        }
    };
    let quality = encoding.quality.unwrap_or(JPEG_QUALITY);
    let write = || {
        let mut compressor = Compressor::new()?;
        compressor.set_quality(i32::from(quality))?;
        compressor.set_subsamp(match encoding.chroma {
            Chroma::Quarter => Subsamp::Sub2x2,
            Chroma::Full => Subsamp::None,
        })?;
        // Huffman tables that are made for this image save 3 % of the bytes.
        compressor.set_optimize(true)?;
        compressor.set_progressive(encoding.progressive)?;
        compressor.compress_to_vec(Image {
            pixels: rgb.as_raw().as_slice(),
            width: rgb.width() as usize,
            pitch: rgb.width() as usize * 3,
            height: rgb.height() as usize,
            format: PixelFormat::RGB,
        })
    };
    write().map_err(|error: turbojpeg::Error| error.to_string())
}

fn webp(pixels: &DynamicImage, encoding: Encoding, segments: i32) -> Result<Vec<u8>, String> {
    let layout = if pixels.color().has_alpha() {
        PixelLayout::Rgba
    } else {
        PixelLayout::Rgb
    };
    let mut config =
        WebPConfig::new().map_err(|()| "the library has another version".to_owned())?;
    config.quality = f32::from(encoding.quality.unwrap_or(WEBP_QUALITY));
    config.method = WEBP_METHOD;
    config.segments = segments;
    if encoding.lossless {
        config.lossless = 1;
        // With lossless encoding, `quality` is the effort.
        config.quality = 20.0;
    }
    webp::Encoder::new(pixels.as_bytes(), layout, pixels.width(), pixels.height())
        .encode_advanced(&config)
        .map(|file| file.to_vec())
        .map_err(|error| format!("{error:?}"))
}

/// Puts the image on a white background, because JPEG has no transparency. Product pages are usually white.
fn on_white(pixels: &DynamicImage) -> RgbImage {
    let mut rgba = pixels.to_rgba8();
    for [red, green, blue, alpha] in rgba.as_chunks_mut().0 {
        let opacity = u16::from(*alpha);
        for channel in [red, green, blue] {
            let mixed = (u16::from(*channel) * opacity + 255 * (255 - opacity) + 127) / 255;
            *channel = u8::try_from(mixed).expect("a mean of two bytes is a byte");
        }
    }
    DynamicImage::from(rgba).into_rgb8()
}

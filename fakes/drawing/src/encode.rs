//! Encodes finished images.

use image::{
    ExtendedColorType, ImageEncoder, RgbImage,
    codecs::{
        jpeg::JpegEncoder,
        png::{CompressionType, FilterType, PngEncoder},
        webp::WebPEncoder,
    },
};

/// The file format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// PNG, compressed quickly.
    Png,
    /// Baseline JPEG.
    Jpeg {
        /// The quality, from 0 to 100. 0 is treated as 1.
        quality: u8,
    },
    /// Lossless WebP. The encoder writes no other kind.
    WebP,
}

impl Format {
    /// The media type, as sent in `Content-Type`.
    pub fn mime_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg { .. } => "image/jpeg",
            Self::WebP => "image/webp",
        }
    }
}

pub(crate) fn encode(image: &RgbImage, format: Format) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(image.len() / 4);
    let (width, height) = image.dimensions();
    let written = match format {
        Format::Png => {
            PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Up)
                .write_image(image, width, height, ExtendedColorType::Rgb8)
        }
        Format::WebP => WebPEncoder::new_lossless(&mut bytes).write_image(
            image,
            width,
            height,
            ExtendedColorType::Rgb8,
        ),
        Format::Jpeg { quality } => JpegEncoder::new_with_quality(&mut bytes, quality.max(1))
            .write_image(image, width, height, ExtendedColorType::Rgb8),
    };
    written.expect("writing to memory does not fail");
    bytes
}

//! Opening a file somebody else wrote, within limits.
//!
//! The first bytes say what it is, never its name or declared type. The header says how large it is, and the limits
//! are applied to that before a pixel is decoded: a few bytes can declare four billion pixels.

use std::io::Cursor;

use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, codecs::webp::WebPDecoder,
    metadata::Orientation,
};

use common::generation::image::{Format, MAX_PIXELS, MAX_SIDE};

use super::color::{self, ColorTags, Decoded};
use super::jpeg::Jpeg;
use super::png::Png;
use super::{ImagingError, UnsupportedFormat, exif};

/// The largest file we open, in bytes.
pub(super) const MAX_BYTES: usize = 64 << 20;
/// The most memory decoded pixels may take, in bytes: 64 megapixels of eight-bit RGBA.
const MAX_DECODED: usize = 256 << 20;

/// A picture whose header has been read and found within the limits.
pub(super) struct Original<'a> {
    pub(super) format: Format,
    /// How the stored pixels are turned to be shown.
    pub(super) orientation: Orientation,
    /// Pixels across, as shown.
    pub(super) width: u32,
    /// Pixels down, as shown.
    pub(super) height: u32,
    /// Whether it says of its colours something that they may have to be converted for.
    profiled: bool,
    file: File<'a>,
}

/// What reads it.
enum File<'a> {
    Png(Box<Png<'a>>),
    Jpeg(Box<Jpeg<'a>>),
    Webp(Box<WebPDecoder<Cursor<&'a [u8]>>>),
}

impl<'a> Original<'a> {
    /// Reads the header.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, ImagingError> {
        if bytes.len() > MAX_BYTES {
            return Err(ImagingError::TooHeavy { bytes: bytes.len() });
        }
        let format =
            sniff(bytes).ok_or_else(|| ImagingError::NotAPicture(UnsupportedFormat::of(bytes)))?;
        let mut file = File::open(bytes, format)
            .map_err(|reason| ImagingError::Unreadable { format, reason })?;

        let (width, height) = file.size();
        let pixels = u64::from(width) * u64::from(height);
        let decoded = file.bytes().filter(|bytes| *bytes <= MAX_DECODED);
        if width.max(height) > MAX_SIDE || pixels > MAX_PIXELS || decoded.is_none() {
            return Err(ImagingError::TooLarge { width, height });
        }

        let profiled = file.is_profiled();
        let orientation = file.orientation();
        let (width, height) = turned(orientation, width, height);
        Ok(Self {
            format,
            orientation,
            width,
            height,
            profiled,
            file,
        })
    }

    /// The most memory, in bytes, that [`Self::decode`] takes.
    pub(super) fn memory(&self) -> usize {
        let area = self.width as usize * self.height as usize;
        let decoded = self.file.bytes().unwrap_or(usize::MAX);
        let decoding = match &self.file {
            // Sixteen bits are read as bytes first.
            File::Png(png) if png.is_deep() => decoded.saturating_mul(2),
            File::Png(_) => decoded,
            File::Jpeg(jpeg) => jpeg.memory(),
            // The decoder has a copy of its own; measured.
            File::Webp(_) => area * 7,
        };
        // RGB and RGBA of eight bits without a profile stay what they are.
        let stays = !self.profiled && [area * 3, area * 4].contains(&decoded);
        let channels = match &self.file {
            File::Jpeg(_) => 3,
            _ if decoded == area * 3 => 3,
            _ => 4,
        };
        let converted = if stays { 0 } else { area * channels };
        decoding.max(decoded.saturating_add(converted))
    }

    /// Decodes the pixels, as stored, to eight bits a channel, RGB or RGBA, in sRGB.
    pub(super) fn decode(self) -> Result<DynamicImage, ImagingError> {
        let format = self.format;
        self.file
            .decode()
            .and_then(|(pixels, named)| color::to_srgb(pixels, &named))
            .map_err(|reason| ImagingError::Unreadable { format, reason })
    }
}

impl<'a> File<'a> {
    fn open(bytes: &'a [u8], format: Format) -> Result<Self, &'static str> {
        Ok(match format {
            Format::Png => Self::Png(Box::new(Png::open(bytes, MAX_DECODED)?)),
            Format::Jpeg => Self::Jpeg(Box::new(Jpeg::open(bytes)?)),
            Format::Webp => {
                let decoder = WebPDecoder::new(Cursor::new(bytes));
                Self::Webp(Box::new(decoder.map_err(|error| reason(&error))?))
            }
        })
    }

    /// Pixels across and down, as stored.
    fn size(&self) -> (u32, u32) {
        match self {
            Self::Png(png) => png.size(),
            Self::Jpeg(jpeg) => jpeg.size(),
            Self::Webp(webp) => webp.dimensions(),
        }
    }

    /// What its pixels take when decoded; `None` if nobody can count that far.
    fn bytes(&self) -> Option<usize> {
        match self {
            Self::Png(png) => png.bytes(),
            Self::Jpeg(jpeg) => {
                let (width, height) = jpeg.size();
                (width as usize)
                    .checked_mul(height as usize)?
                    .checked_mul(jpeg.channels())
            }
            Self::Webp(webp) => usize::try_from(webp.total_bytes()).ok(),
        }
    }

    fn is_profiled(&mut self) -> bool {
        match self {
            Self::Png(png) => {
                let named = png.color_tags();
                let linear = named.gamma.is_some() || named.points.is_some();
                named.icc.is_some() || named.cicp.is_some() || linear
            }
            Self::Jpeg(jpeg) => jpeg.icc.is_some(),
            Self::Webp(webp) => matches!(webp.icc_profile(), Ok(Some(_))),
        }
    }

    fn orientation(&mut self) -> Orientation {
        match self {
            Self::Png(png) => png.exif().map(exif::orientation),
            Self::Jpeg(jpeg) => jpeg.exif.as_deref().map(exif::orientation),
            Self::Webp(webp) => webp
                .exif_metadata()
                .ok()
                .flatten()
                .as_deref()
                .map(exif::orientation),
        }
        .unwrap_or(Orientation::NoTransforms)
    }

    fn decode(self) -> Result<(Decoded, ColorTags), &'static str> {
        match self {
            Self::Png(png) => {
                let named = png.color_tags();
                Ok((Decoded::Light(png.decode()?), named))
            }
            Self::Jpeg(mut jpeg) => {
                let named = ColorTags {
                    icc: jpeg.icc.take(),
                    ..ColorTags::default()
                };
                Ok((jpeg.decode()?, named))
            }
            Self::Webp(mut webp) => {
                let named = ColorTags {
                    icc: webp.icc_profile().ok().flatten(),
                    ..ColorTags::default()
                };
                let pixels = DynamicImage::from_decoder(*webp).map_err(|error| reason(&error))?;
                Ok((Decoded::Light(pixels), named))
            }
        }
    }
}

/// The decoder's own words name its types.
fn reason(error: &ImageError) -> &'static str {
    match error {
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "it is cut off"
        }
        _ => "it is damaged",
    }
}

/// Width and height once `orientation` is applied. Its own inverse.
pub(super) fn turned(orientation: Orientation, width: u32, height: u32) -> (u32, u32) {
    match orientation {
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => (height, width),
        Orientation::NoTransforms
        | Orientation::Rotate180
        | Orientation::FlipHorizontal
        | Orientation::FlipVertical => (width, height),
    }
}

pub(super) fn sniff(bytes: &[u8]) -> Option<Format> {
    match image::guess_format(bytes).ok()? {
        ImageFormat::Png => Some(Format::Png),
        ImageFormat::Jpeg => Some(Format::Jpeg),
        ImageFormat::WebP => Some(Format::Webp),
        _ => None,
    }
}

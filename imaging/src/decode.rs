//! Opening a file somebody else wrote, within limits.
//!
//! The first bytes say what it is, never its name or declared type. The header says how large it is, and the limits
//! are applied to that before a pixel is decoded: a few bytes can declare four billion pixels.

use std::io::Cursor;

use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, Limits,
    codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder},
    metadata::Orientation,
};

use common::generation::image::{Format, MAX_PIXELS, MAX_SIDE};

use super::{Foreign, ImagingError};

/// The largest file we open, in bytes.
pub(super) const MAX_BYTES: usize = 64 << 20;
/// The most memory decoded pixels may take, in bytes: 64 megapixels of eight-bit RGBA.
const MAX_DECODED: u64 = 256 << 20;
/// The most scans a progressive JPEG may have. Encoders write about ten; each one visits every pixel again, at the
/// cost of a few bytes to whoever wrote the file.
const MAX_SCANS: usize = 32;

/// A picture whose header has been read and found within the limits.
pub(super) struct Original<'a> {
    pub(super) format: Format,
    /// How the stored pixels are turned to be shown.
    pub(super) orientation: Orientation,
    /// Pixels across, as shown.
    pub(super) width: u32,
    /// Pixels down, as shown.
    pub(super) height: u32,
    bytes: &'a [u8],
    decoder: Box<dyn ImageDecoder + 'a>,
}

impl<'a> Original<'a> {
    /// Reads the header.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, ImagingError> {
        if bytes.len() > MAX_BYTES {
            return Err(ImagingError::TooHeavy { bytes: bytes.len() });
        }
        let format = sniff(bytes).ok_or_else(|| ImagingError::NotAPicture(Foreign::of(bytes)))?;
        let mut decoder = decoder(bytes, format).map_err(|error| unreadable(format, &error))?;

        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        if width.max(height) > MAX_SIDE
            || pixels > MAX_PIXELS
            || decoder.total_bytes() > MAX_DECODED
        {
            return Err(ImagingError::TooLarge { width, height });
        }

        // Metadata that cannot be read is as good as none: viewers show such a picture, and so do we.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let (width, height) = turned(orientation, width, height);
        Ok(Self {
            format,
            orientation,
            width,
            height,
            bytes,
            decoder,
        })
    }

    /// Decodes the pixels, as stored, to eight bits a channel, RGB or RGBA; with them the colour profile, if any.
    pub(super) fn decode(mut self) -> Result<(DynamicImage, Option<Vec<u8>>), ImagingError> {
        if self.format == Format::Jpeg {
            check_scans(self.bytes)?;
        }
        let profile = self.decoder.icc_profile().ok().flatten();
        let pixels = DynamicImage::from_decoder(self.decoder)
            .map_err(|error| unreadable(self.format, &error))?;
        let pixels = match pixels {
            DynamicImage::ImageRgb8(_) | DynamicImage::ImageRgba8(_) => pixels,
            other if other.color().has_alpha() => other.into_rgba8().into(),
            other => other.into_rgb8().into(),
        };
        Ok((pixels, profile))
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

fn sniff(bytes: &[u8]) -> Option<Format> {
    match image::guess_format(bytes).ok()? {
        ImageFormat::Png => Some(Format::Png),
        ImageFormat::Jpeg => Some(Format::Jpeg),
        ImageFormat::WebP => Some(Format::Webp),
        _ => None,
    }
}

fn decoder<'a>(bytes: &'a [u8], format: Format) -> Result<Box<dyn ImageDecoder + 'a>, ImageError> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODED);

    let file = Cursor::new(bytes);
    Ok(match format {
        Format::Png => Box::new(PngDecoder::with_limits(file, limits)?),
        // These two take no heed of `limits`; the size in the header is what bounds them.
        Format::Jpeg => Box::new(JpegDecoder::new(file)?),
        Format::Webp => Box::new(WebPDecoder::new(file)?),
    })
}

/// Refuses what the JPEG decoder would get wrong without a word. Its markers are walked for that, up to the last one.
///
/// - A file that is cut off: what is missing would be painted grey, and a grey half is nothing to charge for.
/// - A sequential file with a scan for each channel: zune-jpeg 0.5.15 loses its colours (zune-image issue 419).
fn check_scans(bytes: &[u8]) -> Result<(), ImagingError> {
    let reason = match jpeg_scans(bytes) {
        Some(Scans { count: 1, .. }) => return Ok(()),
        Some(Scans { count: 0, .. }) => "it holds no pixels",
        Some(Scans {
            progressive: false, ..
        }) => "its channels are stored one after the other",
        Some(Scans {
            count: ..=MAX_SCANS,
            ..
        }) => return Ok(()),
        Some(_) => "it has too many scans",
        None => "it is cut off",
    };
    Err(ImagingError::Unreadable {
        format: Format::Jpeg,
        reason: reason.into(),
    })
}

#[derive(Default)]
struct Scans {
    count: usize,
    progressive: bool,
}

/// The scans before the end marker; `None` if there is no end marker.
fn jpeg_scans(bytes: &[u8]) -> Option<Scans> {
    let mut scans = Scans::default();
    let mut rest = bytes;
    loop {
        // Between segments lie coded pixels, in which 0xFF is always followed by a zero or a restart marker.
        let marker_at = rest.iter().position(|&byte| byte == 0xFF)? + 1;
        rest = rest.get(marker_at..)?;
        match rest.first()? {
            0xD9 => return Some(scans),
            0xFF => {}
            0x00 | 0x01 | 0xD0..=0xD8 => rest = &rest[1..],
            marker => {
                match marker {
                    0xC2 => scans.progressive = true,
                    0xDA => scans.count += 1,
                    _ => {}
                }
                let length = [*rest.get(1)?, *rest.get(2)?];
                rest = rest.get(1 + usize::from(u16::from_be_bytes(length))..)?;
            }
        }
    }
}

fn unreadable(format: Format, error: &ImageError) -> ImagingError {
    ImagingError::Unreadable {
        format,
        reason: error.to_string(),
    }
}

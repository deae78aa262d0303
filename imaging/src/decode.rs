//! Opens an untrusted file within limits.
//!
//! The first bytes decide the format, and never the file's name or its declared type. The header says how large the
//! image is. The limits are checked before any pixel is decoded, because a file of a few bytes can declare four billion
//! pixels.

use std::io::Cursor;

use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, codecs::webp::WebPDecoder,
    metadata::Orientation,
};

use domain::generation::image::{Format, MAX_PIXELS, MAX_SIDE, Pixels};

use super::color::{self, ColorTags, Decoded};
use super::jpeg::Jpeg;
use super::limits::{MAX_DECODED_BYTES, MAX_FILE_BYTES};
use super::png::Png;
use super::{ImagingError, UnsupportedFormat, exif};

/// The most memory, in bytes, that the buffers of the PNG decoder take: the window of the compression and some rows.
const PNG_BUFFER_BYTES: usize = 1 << 20;

/// An image whose header has been read and is within the limits.
pub(super) struct Original<'a> {
    pub(super) format: Format,
    /// How the stored pixels have to be turned to be upright (EXIF).
    pub(super) orientation: Orientation,
    /// The width of the upright image.
    pub(super) width: u32,
    /// The height of the upright image.
    pub(super) height: u32,
    /// Whether the file has color tags, which may require a conversion.
    has_color_tags: bool,
    file: File<'a>,
}

/// An opened file, as the decoder of its format.
enum File<'a> {
    Png(Box<Png<'a>>),
    Jpeg(Box<Jpeg<'a>>),
    Webp(Box<WebPDecoder<Cursor<&'a [u8]>>>),
}

impl<'a> Original<'a> {
    /// Reads the header, and checks the limits.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, ImagingError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(ImagingError::FileTooLarge { bytes: bytes.len() });
        }
        let format = sniff(bytes)
            .ok_or_else(|| ImagingError::NotAnImage(UnsupportedFormat::from_file(bytes)))?;
        let mut file = File::open(bytes, format)
            .map_err(|reason| ImagingError::Unreadable { format, reason })?;

        let (width, height) = file.size();
        let pixels = u64::from(width) * u64::from(height);
        let decoded = file
            .decoded_bytes()
            .filter(|bytes| *bytes <= MAX_DECODED_BYTES);
        if width.max(height) > MAX_SIDE || pixels > MAX_PIXELS || decoded.is_none() {
            return Err(ImagingError::TooLarge { width, height });
        }

        let has_color_tags = file.has_color_tags();
        let orientation = file.orientation();
        let (width, height) = turned_size(orientation, width, height);
        Ok(Self {
            format,
            orientation,
            width,
            height,
            has_color_tags,
            file,
        })
    }

    /// The most memory, in bytes, that [`Self::decode`] takes.
    pub(super) fn memory(&self) -> usize {
        let area = self.width as usize * self.height as usize;
        let decoded = self.file.decoded_bytes().unwrap_or(usize::MAX);
        let decoding = match &self.file {
            // Samples of sixteen bits are decoded as bytes and then copied.
            File::Png(png) if png.has_16_bits() => decoded.saturating_mul(2),
            File::Png(_) => decoded,
            File::Jpeg(jpeg) => jpeg.memory(),
            // 7 bytes for each pixel, as measured: the decoder holds a copy of its own.
            File::Webp(_) => area * 7,
        };
        // RGB and RGBA of eight bits without color tags are not converted. Other pixels of 3 or 4 bytes are, but their
        // conversion takes no more memory than `decoding`.
        let needs_no_conversion = !self.has_color_tags && [area * 3, area * 4].contains(&decoded);
        // A conversion gives RGB or RGBA. Where both are possible, RGBA is assumed.
        let channels = match &self.file {
            File::Jpeg(_) => 3,
            _ if decoded == area * 3 => 3,
            _ => 4,
        };
        let converted = if needs_no_conversion {
            0
        } else {
            area * channels
        };
        decoding.max(decoded.saturating_add(converted))
    }

    /// The most memory, in bytes, that [`Self::decode_rows_or_all`] takes if it gives rows. Returns `None` if it does
    /// not.
    pub(super) fn memory_by_rows(mut self) -> Option<usize> {
        let memory = self.file.memory_by_rows()?;
        self.file.take_color_tags().are_srgb().then_some(memory)
    }

    /// The size of the image as stored, before it is turned upright.
    pub(super) fn stored_size(&self) -> Pixels {
        let (width, height) = turned_size(self.orientation, self.width, self.height);
        Pixels { width, height }
    }

    /// Decodes the pixels. If the decoder gives eight-bit RGB in sRGB, `each_row` gets them row by row, and the result
    /// is `None`. So the RGB pixels of the whole image are never in memory together. Otherwise `each_row` is not
    /// called, and the result is that of [`Self::decode`].
    pub(super) fn decode_rows_or_all(
        mut self,
        each_row: impl FnMut(&[u8]),
    ) -> Result<Option<DynamicImage>, ImagingError> {
        let tags = self.file.take_color_tags();
        let decoded = if self.file.memory_by_rows().is_some() && tags.are_srgb() {
            self.file.decode_rows(each_row).map(|()| None)
        } else {
            let pixels = self.file.decode();
            pixels.and_then(|pixels| color::to_srgb(pixels, &tags).map(Some))
        };
        let format = self.format;
        decoded.map_err(|reason| ImagingError::Unreadable { format, reason })
    }

    /// Decodes the pixels to eight-bit RGB or RGBA in sRGB. They are not turned yet.
    pub(super) fn decode(mut self) -> Result<DynamicImage, ImagingError> {
        let format = self.format;
        let tags = self.file.take_color_tags();
        let pixels = self.file.decode();
        pixels
            .and_then(|pixels| color::to_srgb(pixels, &tags))
            .map_err(|reason| ImagingError::Unreadable { format, reason })
    }
}

impl<'a> File<'a> {
    fn open(bytes: &'a [u8], format: Format) -> Result<Self, &'static str> {
        Ok(match format {
            Format::Png => Self::Png(Box::new(Png::open(bytes, MAX_DECODED_BYTES)?)),
            Format::Jpeg => Self::Jpeg(Box::new(Jpeg::open(bytes)?)),
            Format::Webp => {
                let decoder = WebPDecoder::new(Cursor::new(bytes));
                Self::Webp(Box::new(decoder.map_err(|error| reason(&error))?))
            }
        })
    }

    /// The width and the height, as stored.
    fn size(&self) -> (u32, u32) {
        match self {
            Self::Png(png) => png.size(),
            Self::Jpeg(jpeg) => jpeg.size(),
            Self::Webp(webp) => webp.dimensions(),
        }
    }

    /// How many bytes the decoded pixels take. Returns `None` if the number overflows.
    fn decoded_bytes(&self) -> Option<usize> {
        match self {
            Self::Png(png) => png.decoded_bytes(),
            Self::Jpeg(jpeg) => {
                let (width, height) = jpeg.size();
                (width as usize)
                    .checked_mul(height as usize)?
                    .checked_mul(jpeg.channels())
            }
            Self::Webp(webp) => usize::try_from(webp.total_bytes()).ok(),
        }
    }

    /// Whether the file has color tags that may require a conversion.
    fn has_color_tags(&mut self) -> bool {
        match self {
            Self::Png(png) => {
                let tags = png.color_tags();
                let has_curve_or_primaries = tags.gamma.is_some() || tags.chromaticities.is_some();
                tags.icc.is_some() || tags.cicp.is_some() || has_curve_or_primaries
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

    /// What the file says about its colors. Call it once: it may move the profile out of the decoder.
    fn take_color_tags(&mut self) -> ColorTags {
        let icc = match self {
            Self::Png(png) => return png.color_tags(),
            Self::Jpeg(jpeg) => jpeg.icc.take(),
            Self::Webp(webp) => webp.icc_profile().ok().flatten(),
        };
        ColorTags {
            icc,
            ..ColorTags::default()
        }
    }

    /// The most memory, in bytes, that [`Self::decode_rows`] takes. Returns `None` if it cannot be called.
    fn memory_by_rows(&self) -> Option<usize> {
        match self {
            Self::Png(png) => png.has_rgb_rows().then_some(PNG_BUFFER_BYTES),
            Self::Jpeg(jpeg) => (jpeg.channels() == 3).then(|| jpeg.memory_by_rows()),
            Self::Webp(_) => None,
        }
    }

    /// Decodes to RGB with eight bits a channel, and calls `each` for each row, from top to bottom.
    fn decode_rows(self, each: impl FnMut(&[u8])) -> Result<(), &'static str> {
        match self {
            Self::Png(png) => png.decode_rows(each),
            Self::Jpeg(jpeg) => jpeg.decode_rows(each),
            Self::Webp(_) => Err("WebP is not decoded by rows"),
        }
    }

    fn decode(self) -> Result<Decoded, &'static str> {
        match self {
            Self::Png(png) => png.decode().map(Decoded::Additive),
            Self::Jpeg(jpeg) => jpeg.decode(),
            Self::Webp(webp) => DynamicImage::from_decoder(*webp)
                .map(Decoded::Additive)
                .map_err(|error| reason(&error)),
        }
    }
}

/// Describes an error in our own words, because the decoder's text names Rust types.
fn reason(error: &ImageError) -> &'static str {
    match error {
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the file is cut off"
        }
        _ => "the file is damaged",
    }
}

/// Width and height after `orientation` is applied. With that result and the same orientation, this function gives the
/// size before.
pub(super) fn turned_size(orientation: Orientation, width: u32, height: u32) -> (u32, u32) {
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

/// The format by the first bytes. Returns `None` if it is neither PNG, JPEG nor WebP.
pub(super) fn sniff(bytes: &[u8]) -> Option<Format> {
    match image::guess_format(bytes).ok()? {
        ImageFormat::Png => Some(Format::Png),
        ImageFormat::Jpeg => Some(Format::Jpeg),
        ImageFormat::WebP => Some(Format::Webp),
        _ => None,
    }
}

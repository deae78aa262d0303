//! Reads PNG files and their color tags. In comments "PNG" with a section number means the specification, third edition
//! (<https://www.w3.org/TR/png-3/>).

use std::borrow::Cow;
use std::io::{Cursor, ErrorKind};

use image::{DynamicImage, ImageBuffer};
use png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Reader, Transformations};

use super::buffer::buffer;
use super::color::{ColorTags, VIDEO_COLORS};
use super::provenance;

const DAMAGED: &str = "the file is damaged";

/// A file whose chunks before the pixels have been read.
pub(super) struct Png<'a> {
    reader: Reader<Cursor<Cow<'a, [u8]>>>,
    /// The four bytes of `cICP` (PNG 11.3.2.6), also if the decoder does not know them.
    cicp: Option<[u8; 4]>,
}

impl<'a> Png<'a> {
    /// Reads the chunks before the pixels. They may take at most `max_bytes` of memory.
    pub(super) fn open(file: &'a [u8], max_bytes: usize) -> Result<Self, &'static str> {
        let cicp = chunks(file)
            .find_map(|(_, name, data)| (name == b"cICP").then(|| data.try_into().ok()).flatten());
        if cicp.is_some_and(|[.., matrix, _]: [u8; 4]| matrix != 0) {
            // This is checked here because the decoder would report a damaged file. PNG allows only matrix 0, which is
            // RGB.
            return Err(VIDEO_COLORS);
        }
        let file = Cursor::new(with_clean_transparency(file));
        let mut decoder = Decoder::new_with_limits(file, Limits { bytes: max_bytes });
        decoder.set_ignore_text_chunk(true);
        decoder.set_transformations(Transformations::EXPAND);
        let reader = decoder.read_info().map_err(|error| reason(&error))?;
        Ok(Self { reader, cicp })
    }

    /// The width and the height, as stored.
    pub(super) fn size(&self) -> (u32, u32) {
        self.reader.info().size()
    }

    /// How many bytes the decoded pixels take. Returns `None` if the number overflows.
    pub(super) fn decoded_bytes(&self) -> Option<usize> {
        self.reader.output_buffer_size()
    }

    /// Whether the channels have sixteen bits each.
    pub(super) fn has_16_bits(&self) -> bool {
        self.reader.output_color_type().1 == BitDepth::Sixteen
    }

    /// The EXIF block, which has the format of TIFF.
    pub(super) fn exif(&self) -> Option<&[u8]> {
        self.reader.info().exif_metadata.as_deref()
    }

    /// Everything that the file says about its colors.
    pub(super) fn color_tags(&self) -> ColorTags {
        let info = self.reader.info();
        let chromaticities = info.chrm_chunk.map(|chrm| {
            let pairs = [chrm.white, chrm.red, chrm.green, chrm.blue];
            pairs.map(|(x, y)| [x.into_value(), y.into_value()])
        });
        ColorTags {
            cicp: self.cicp,
            icc: info.icc_profile.as_ref().map(|profile| profile.to_vec()),
            srgb: info.srgb.is_some(),
            gamma: info.gama_chunk.map(png::ScaledFloat::into_value),
            chromaticities,
        }
    }

    /// Whether [`Self::decode_rows`] can be called: the pixels are eight-bit RGB, and stored from top to bottom.
    pub(super) fn has_rgb_rows(&self) -> bool {
        let is_rgb = self.reader.output_color_type() == (ColorType::Rgb, BitDepth::Eight);
        is_rgb && !self.reader.info().interlaced
    }

    /// Decodes the pixels row by row. Of an animation only the default image is decoded.
    pub(super) fn decode_rows(mut self, mut each: impl FnMut(&[u8])) -> Result<(), &'static str> {
        let (width, height) = self.size();
        let mut rows = 0;
        while let Some(row) = self.reader.next_row().map_err(|error| reason(&error))? {
            if row.data().len() != width as usize * 3 {
                return Err(DAMAGED);
            }
            each(row.data());
            rows += 1;
        }
        if rows == height { Ok(()) } else { Err(DAMAGED) }
    }

    /// Decodes the pixels. A palette is replaced by its colors, but no color is converted. Of an animation only the
    /// default image is decoded.
    pub(super) fn decode(mut self) -> Result<DynamicImage, &'static str> {
        let samples = self.samples()?;
        let (width, height) = self.size();
        let (color_type, bit_depth) = self.reader.output_color_type();
        let pixels = if bit_depth == BitDepth::Sixteen {
            let pairs = samples.as_chunks::<2>().0.iter();
            let samples: Vec<u16> = pairs.map(|pair| u16::from_be_bytes(*pair)).collect();
            match color_type {
                ColorType::Grayscale => {
                    from_samples(width, height, samples, DynamicImage::ImageLuma16)
                }
                ColorType::GrayscaleAlpha => {
                    from_samples(width, height, samples, DynamicImage::ImageLumaA16)
                }
                ColorType::Rgba => from_samples(width, height, samples, DynamicImage::ImageRgba16),
                _ => from_samples(width, height, samples, DynamicImage::ImageRgb16),
            }
        } else {
            match color_type {
                ColorType::Grayscale => {
                    from_samples(width, height, samples, DynamicImage::ImageLuma8)
                }
                ColorType::GrayscaleAlpha => {
                    from_samples(width, height, samples, DynamicImage::ImageLumaA8)
                }
                ColorType::Rgba => from_samples(width, height, samples, DynamicImage::ImageRgba8),
                _ => from_samples(width, height, samples, DynamicImage::ImageRgb8),
            }
        };
        pixels.ok_or(DAMAGED)
    }

    /// The samples of all rows, as the file has them.
    fn samples(&mut self) -> Result<Vec<u8>, &'static str> {
        let len = self.decoded_bytes().ok_or("the image is too large")?;
        if self.reader.info().interlaced {
            let mut samples = buffer(len);
            let frame = self.reader.next_frame(&mut samples);
            frame.map_err(|error| reason(&error))?;
            return Ok(samples);
        }
        // Rows are appended, so that the memory need not be filled before.
        let mut samples = Vec::with_capacity(len);
        while let Some(row) = self.reader.next_row().map_err(|error| reason(&error))? {
            samples.extend_from_slice(row.data());
        }
        Ok(samples)
    }
}

/// Makes an image from decoded samples. Returns `None` if their number does not match the size.
fn from_samples<P: image::Pixel>(
    width: u32,
    height: u32,
    samples: Vec<P::Subpixel>,
    wrap: fn(ImageBuffer<P, Vec<P::Subpixel>>) -> DynamicImage,
) -> Option<DynamicImage> {
    ImageBuffer::from_raw(width, height, samples).map(wrap)
}

/// Returns the file with the unused bits of its transparent gray level set to zero.
///
/// `tRNS` holds the gray level in 16 bits. Only as many of these bits count as a sample has (PNG 11.3.1.1), but the
/// decoder compares all of them.
fn with_clean_transparency(file: &[u8]) -> Cow<'_, [u8]> {
    // The offset of the bit depth, which is in the header chunk IHDR. The color type follows it (PNG 11.2.1).
    const BIT_DEPTH: usize = 24;
    const GRAY: u8 = 0;
    let (Some(&bits @ (1 | 2 | 4)), Some(&GRAY)) = (file.get(BIT_DEPTH), file.get(BIT_DEPTH + 1))
    else {
        return Cow::Borrowed(file);
    };
    let Some((at, data)) = chunks(file)
        .find_map(|(at, name, data)| (name == b"tRNS" && data.len() == 2).then_some((at, data)))
    else {
        return Cow::Borrowed(file);
    };
    let mut chunk = Vec::new();
    provenance::append_chunk(&mut chunk, *b"tRNS", &[0, data[1] & ((1 << bits) - 1)]);
    let mut changed = file.to_vec();
    changed[at..at + chunk.len()].copy_from_slice(&chunk);
    Cow::Owned(changed)
}

/// The chunks before the pixels: the offset, the name and the data of each. Besides its data, a chunk has 12 bytes:
/// length, name and checksum.
fn chunks(file: &[u8]) -> impl Iterator<Item = (usize, &[u8], &[u8])> {
    // After the signature.
    let mut at = 8;
    std::iter::from_fn(move || {
        let length = u32::from_be_bytes(*file.get(at..)?.first_chunk()?) as usize;
        let chunk = file.get(at..at.checked_add(length)?.checked_add(12)?)?;
        let (start, name) = (at, &chunk[4..8]);
        at += chunk.len();
        (name != b"IDAT").then_some((start, name, &chunk[8..8 + length]))
    })
}

/// Describes an error in our own words, because the decoder's text names Rust types.
fn reason(error: &DecodingError) -> &'static str {
    match error {
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            "the file is cut off"
        }
        DecodingError::LimitsExceeded => "its metadata is too large",
        _ => DAMAGED,
    }
}

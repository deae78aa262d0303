//! A JPEG decoder in safe Rust. It gives the same pixels as libjpeg-turbo. Where libjpeg-turbo only warns, it returns
//! an error.
//!
//! Only a decoder that reads all codes of a file knows whether all pixels are there. So a separate check would be
//! nearly as large as a decoder. [`scan`] reads the codes, [`idct`] turns coefficients into samples, and [`upsample`]
//! brings all channels to one size. [Decision 23](../../docs/decisions/0023-a-jpeg-decoder-of-our-own.md) gives the
//! reasons.
//!
//! "T.81" with a clause means ITU-T T.81 (ISO/IEC 10918-1), the specification of JPEG.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::inline_always,
    reason = "the values are small; the functions that read bits are slow if they are not inlined"
)]

mod bits;
mod frame;
mod huffman;
mod idct;
mod scan;
mod upsample;

use std::sync::Arc;

use image::{DynamicImage, ImageBuffer};

use self::frame::Frame;
use self::huffman::HuffmanTable;
use self::scan::Scan;
use super::color::Decoded;

/// Why a file is refused, as a phrase for people.
type Reason = &'static str;

const TRUNCATED: Reason = "the file is cut off";
const DAMAGED: Reason = "the file is damaged";
/// The most scans that a file may have. Encoders write about ten. Each scan visits all pixels again, so a small file
/// with many scans could take very long.
const MAX_SCANS: usize = 32;

/// The color model of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ColorModel {
    Gray,
    Rgb,
    YCbCr,
    /// The samples are stored inverted, as Adobe's programs do. All other programs follow Adobe.
    Cmyk,
    /// Like [`Cmyk`](Self::Cmyk), but the first three channels are stored as YCbCr.
    Ycck,
}

/// A file whose headers before the first scan have been read.
pub(super) struct Jpeg<'a> {
    frame: Frame,
    model: ColorModel,
    /// The EXIF block, which has the format of TIFF.
    pub(super) exif: Option<Vec<u8>>,
    /// The ICC profile, joined from all its parts.
    pub(super) icc: Option<Vec<u8>>,
    tables: Tables,
    /// The segments from the first scan on.
    rest: Segments<'a>,
}

/// The tables for reading scans. There are four slots for each kind of table. A later segment replaces the tables of
/// the slots that it names.
#[derive(Default)]
struct Tables {
    quantization: [Option<[u16; 64]>; 4],
    /// The Huffman tables of DC coefficients.
    dc: [Option<Arc<HuffmanTable>>; 4],
    /// The Huffman tables of AC coefficients.
    ac: [Option<Arc<HuffmanTable>>; 4],
    /// The number of MCUs between two restart markers. 0 means that there are none.
    restart_interval: usize,
}

impl<'a> Jpeg<'a> {
    /// Reads the headers. No pixel is decoded.
    pub(super) fn open(file: &'a [u8]) -> Result<Self, Reason> {
        let mut segments = Segments::new(file)?;
        let mut tables = Tables::default();
        let mut frame = None;
        let (mut has_jfif, mut adobe_transform) = (false, None);
        let (mut exif, mut icc) = (Vec::new(), Vec::new());
        loop {
            let at = segments.at;
            let (marker, data) = segments.next()?.ok_or("the file has no pixels")?;
            match (marker, data) {
                (0xDA, _) => {
                    // `decode_rows` reads this segment again.
                    segments.at = at;
                    break;
                }
                (0xE0, [b'J', b'F', b'I', b'F', 0, ..]) if data.len() >= 14 => has_jfif = true,
                (0xEE, [b'A', b'd', b'o', b'b', b'e', rest @ ..]) if data.len() >= 12 => {
                    adobe_transform = Some(rest[6]);
                }
                // A block that is too long for one segment continues in the next segment.
                (0xE1, [b'E', b'x', b'i', b'f', 0, _, part @ ..]) => exif.extend(part),
                // The number of the part, the number of parts, and the part.
                (0xE2, data) if data.starts_with(b"ICC_PROFILE\0") && data.len() >= 14 => {
                    icc.push((data[12], &data[14..]));
                }
                (0xC0..=0xC2, data) if frame.is_none() => {
                    frame = Some(Frame::new(data, marker == 0xC2)?);
                }
                _ => tables.read(marker, data)?,
            }
        }
        let frame = frame.ok_or("the file has no pixels")?;
        icc.sort_by_key(|(number, _)| *number);
        let icc: Vec<u8> = icc
            .into_iter()
            .flat_map(|(_, part)| part)
            .copied()
            .collect();
        Ok(Self {
            model: frame.color_model(has_jfif, adobe_transform),
            frame,
            exif: (!exif.is_empty()).then_some(exif),
            icc: (!icc.is_empty()).then_some(icc),
            tables,
            rest: segments,
        })
    }

    /// The width and the height, as stored.
    pub(super) fn size(&self) -> (u32, u32) {
        (self.frame.width, self.frame.height)
    }

    /// The number of channels of a decoded pixel: 1 for gray, 3 for RGB, 4 for CMYK.
    pub(super) fn channels(&self) -> usize {
        match self.model {
            ColorModel::Gray => 1,
            ColorModel::Rgb | ColorModel::YCbCr => 3,
            ColorModel::Cmyk | ColorModel::Ycck => 4,
        }
    }

    /// The most memory, in bytes, that [`Self::decode`] takes: that of [`Self::decode_rows`], or the samples of all
    /// channels and the pixels that are made from them.
    pub(super) fn memory(&self) -> usize {
        let (all, _) = self.frame.sample_counts();
        let pixels = self.frame.width as usize * self.frame.height as usize * self.channels();
        self.memory_by_rows().max(all + pixels)
    }

    /// The most memory, in bytes, that [`Self::decode_rows`] takes: the samples of all channels. A progressive image
    /// first needs memory for its coefficients, of two bytes each.
    pub(super) fn memory_by_rows(&self) -> usize {
        let (all, largest) = self.frame.sample_counts();
        if self.frame.progressive {
            all * 2 + largest
        } else {
            all
        }
    }

    /// Decodes all pixels. Returns an error if a bit of a coefficient or the end marker is missing.
    pub(super) fn decode(self) -> Result<Decoded, Reason> {
        let ((width, height), channels) = (self.size(), self.channels());
        let mut samples = Vec::with_capacity(width as usize * height as usize * channels);
        self.decode_rows(|row| samples.extend_from_slice(row))?;
        let pixels = match channels {
            1 => ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageLuma8),
            3 => ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageRgb8),
            _ => {
                return Ok(Decoded::Cmyk {
                    width,
                    height,
                    samples,
                });
            }
        };
        pixels.map(Decoded::Additive).ok_or(DAMAGED)
    }

    /// Decodes all pixels and then gives them row by row. Returns an error if a bit of a coefficient or the end marker
    /// is missing.
    pub(super) fn decode_rows(mut self, each: impl FnMut(&[u8])) -> Result<(), Reason> {
        let mut planes = self.frame.planes();
        let mut scans = 0;
        while let Some((marker, data)) = self.rest.next()? {
            if marker != 0xDA {
                self.tables.read(marker, data)?;
                continue;
            }
            if !self.frame.progressive && self.frame.is_complete() {
                // Some programs write the image twice. The second copy is ignored.
                continue;
            }
            scans += 1;
            if scans > MAX_SCANS {
                return Err("the file has too many scans");
            }
            let scan = Scan::new(data, &mut self.frame, &self.tables)?;
            let entropy_coded = &self.rest.file[self.rest.at..];
            self.rest.at += scan.decode(&self.frame, &mut planes, entropy_coded)?;
        }
        if !self.frame.is_complete() {
            return Err("some of its scans are missing");
        }
        for plane in &mut planes {
            plane.transform_stored_blocks();
        }
        upsample::to_rows(&self.frame, self.model, &planes, each);
        Ok(())
    }
}

impl Tables {
    /// Reads a segment before or between scans (T.81, table B.1). Segments that do not matter for pixels are ignored. A
    /// segment of a kind of JPEG that is not supported is an error.
    fn read(&mut self, marker: u8, data: &[u8]) -> Result<(), Reason> {
        match marker {
            0xC4 => self.read_huffman(data),
            0xDB => self.read_quantization(data),
            0xDD => {
                let interval = *data.first_chunk().ok_or(DAMAGED)?;
                self.restart_interval = usize::from(u16::from_be_bytes(interval));
                Ok(())
            }
            // Application data, comments, and DNL. DNL holds the number of lines, which the frame header already has.
            0xE0..=0xEF | 0xFE | 0xDC => Ok(()),
            0xC9..=0xCC => Err(
                "the file uses arithmetic coding, which few programs read: save it with Huffman coding",
            ),
            0xC3 => Err("the file is a lossless JPEG, which few programs read: save it as PNG"),
            0xC5..=0xC7 | 0xCD..=0xCF | 0xDE | 0xDF => Err(
                "the file is a hierarchical JPEG, which few programs read: save it as a usual JPEG",
            ),
            _ => Err(DAMAGED),
        }
    }

    /// Reads a segment with quantization tables (T.81, B.2.4.1).
    fn read_quantization(&mut self, mut data: &[u8]) -> Result<(), Reason> {
        while let [head, rest @ ..] = data {
            let slot = self
                .quantization
                .get_mut(usize::from(head & 15))
                .ok_or(DAMAGED)?;
            let bytes = if head >> 4 == 0 { 1 } else { 2 };
            let (values, rest) = rest.split_at_checked(64 * bytes).ok_or(DAMAGED)?;
            let mut table = [0; 64];
            for (at, value) in values.chunks_exact(bytes).enumerate() {
                let value = value
                    .iter()
                    .fold(0, |value, byte| value << 8 | u16::from(*byte));
                table[scan::ZIGZAG[at]] = value;
            }
            *slot = Some(table);
            data = rest;
        }
        Ok(())
    }

    /// Reads a segment with Huffman tables (T.81, B.2.4.2).
    fn read_huffman(&mut self, mut data: &[u8]) -> Result<(), Reason> {
        while let [head, rest @ ..] = data {
            let tables = if head >> 4 == 0 {
                &mut self.dc
            } else {
                &mut self.ac
            };
            let slot = tables.get_mut(usize::from(head & 15)).ok_or(DAMAGED)?;
            let (code_counts, rest) = rest.split_first_chunk::<16>().ok_or(DAMAGED)?;
            let count: usize = code_counts.iter().map(|count| usize::from(*count)).sum();
            let (symbols, rest) = rest.split_at_checked(count).ok_or(DAMAGED)?;
            *slot = Some(Arc::new(
                HuffmanTable::new(code_counts, symbols).ok_or(DAMAGED)?,
            ));
            data = rest;
        }
        Ok(())
    }
}

/// Reads the segments of a file, from marker to marker.
struct Segments<'a> {
    file: &'a [u8],
    /// The offset of the next byte to read.
    at: usize,
}

impl<'a> Segments<'a> {
    fn new(file: &'a [u8]) -> Result<Self, Reason> {
        if !file.starts_with(&[0xFF, 0xD8]) {
            return Err(DAMAGED);
        }
        Ok(Self { file, at: 2 })
    }

    /// The marker and the data of the next segment that has data. Returns `None` at the end marker.
    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Reason> {
        loop {
            let marker = bits::next_marker(self.file, &mut self.at).ok_or(TRUNCATED)?;
            match marker {
                0xD9 => return Ok(None),
                // TEM and RST have no data.
                0x01 | 0xD0..=0xD7 => continue,
                0xD8 => return Err(DAMAGED),
                _ => {}
            }
            let rest = &self.file[self.at..];
            // The length includes its own two bytes.
            let length = usize::from(u16::from_be_bytes(*rest.first_chunk().ok_or(TRUNCATED)?));
            let data = rest.get(2..length.max(2)).ok_or(TRUNCATED)?;
            if length < 2 {
                return Err(DAMAGED);
            }
            self.at += length;
            return Ok(Some((marker, data)));
        }
    }
}

//! Names the format of a file that cannot be read, so that the error says what to do.

use std::fmt;

/// How many bytes of a file are examined.
const HEAD_BYTES: usize = 4096;

/// The format of a file that is not PNG, JPEG or WebP, recognized by its first bytes. The text says what the sender can
/// do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsupportedFormat {
    /// The file has no bytes.
    Empty,
    /// HEIC or HEIF, which phones take photos in.
    Heic,
    /// AVIF.
    Avif,
    /// GIF.
    Gif,
    /// TIFF, or a camera's raw file.
    Tiff,
    /// BMP.
    Bmp,
    /// ICO.
    Icon,
    /// A Photoshop document.
    Photoshop,
    /// JPEG XL.
    JpegXl,
    /// JPEG 2000.
    Jpeg2000,
    /// SVG.
    Svg,
    /// PDF.
    Pdf,
    /// A video: Matroska, or an unknown brand of the ISO base media format.
    Video,
    /// Compressed with gzip.
    Gzip,
    /// Compressed with zstd.
    Zstd,
    /// A ZIP archive.
    Zip,
    /// The text of a data: URI.
    DataUri,
    /// Base64 text.
    Base64,
    /// An HTML page.
    Html,
    /// JSON.
    Json,
    /// A multipart form.
    Multipart,
    /// A format that is not recognized.
    Unknown,
}

impl UnsupportedFormat {
    /// Recognizes a file by its first bytes.
    pub(super) fn from_file(file: &[u8]) -> Self {
        let head = &file[..file.len().min(HEAD_BYTES)];
        if head.is_empty() {
            return Self::Empty;
        }
        let by_signature = SIGNATURES
            .iter()
            .find(|(_, at, signature)| head.get(*at..).is_some_and(|h| h.starts_with(signature)));
        match by_signature {
            Some((kind, ..)) => *kind,
            None => from_ftyp_brands(head)
                .or_else(|| from_text(head))
                .unwrap_or(Self::Unknown),
        }
    }
}

/// Formats with fixed bytes at a fixed offset.
const SIGNATURES: &[(UnsupportedFormat, usize, &[u8])] = &[
    (UnsupportedFormat::Gif, 0, b"GIF87a"),
    (UnsupportedFormat::Gif, 0, b"GIF89a"),
    (UnsupportedFormat::Tiff, 0, b"II*\0"),
    (UnsupportedFormat::Tiff, 0, b"MM\0*"),
    (UnsupportedFormat::Tiff, 0, b"II+\0"),
    (UnsupportedFormat::Tiff, 0, b"MM\0+"),
    (UnsupportedFormat::Bmp, 0, b"BM"),
    (UnsupportedFormat::Icon, 0, b"\0\0\x01\0"),
    (UnsupportedFormat::Photoshop, 0, b"8BPS"),
    (UnsupportedFormat::JpegXl, 0, b"\xFF\x0A"),
    (UnsupportedFormat::JpegXl, 4, b"JXL \r\n\x87\n"),
    (UnsupportedFormat::Jpeg2000, 4, b"jP  \r\n\x87\n"),
    (UnsupportedFormat::Jpeg2000, 0, b"\xFF\x4F\xFF\x51"),
    (UnsupportedFormat::Pdf, 0, b"%PDF-"),
    (UnsupportedFormat::Video, 0, b"\x1A\x45\xDF\xA3"),
    (UnsupportedFormat::Gzip, 0, b"\x1F\x8B"),
    (UnsupportedFormat::Zstd, 0, b"\x28\xB5\x2F\xFD"),
    (UnsupportedFormat::Zip, 0, b"PK\x03\x04"),
    (UnsupportedFormat::Zip, 0, b"PK\x05\x06"),
];

/// Recognizes a file of the ISO base media format (ISO/IEC 14496-12, 4.3) by its major brand and its compatible brands.
fn from_ftyp_brands(head: &[u8]) -> Option<UnsupportedFormat> {
    if head.get(4..8)? != b"ftyp" {
        return None;
    }
    let length = u32::from_be_bytes(*head.first_chunk()?);
    let end = head.len().min(usize::try_from(length).ok()?);
    let brands = head.get(8..end).unwrap_or_default().as_chunks::<4>().0;
    let has = |names: &[&[u8; 4]]| brands.iter().any(|brand| names.contains(&brand));
    Some(if has(&[b"avif", b"avis"]) {
        UnsupportedFormat::Avif
    } else if has(&[
        b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1",
    ]) {
        UnsupportedFormat::Heic
    } else {
        UnsupportedFormat::Video
    })
}

/// Recognizes text that was sent in place of an image.
fn from_text(head: &[u8]) -> Option<UnsupportedFormat> {
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    let head = head.trim_ascii();
    let lower = head.to_ascii_lowercase();
    let has = |word: &[u8]| lower.windows(word.len()).any(|window| window == word);
    if lower.starts_with(b"data:") {
        Some(UnsupportedFormat::DataUri)
    } else if lower.starts_with(b"--") && has(b"content-disposition") {
        Some(UnsupportedFormat::Multipart)
    } else if lower.starts_with(b"<!doctype html") || lower.starts_with(b"<html") {
        Some(UnsupportedFormat::Html)
    } else if lower.starts_with(b"<") && has(b"<svg") {
        Some(UnsupportedFormat::Svg)
    } else if matches!(head, [b'{' | b'[', ..]) && !head.contains(&0) {
        // A zero byte would mean that this is no text.
        Some(UnsupportedFormat::Json)
    } else {
        is_base64(head).then_some(UnsupportedFormat::Base64)
    }
}

/// Whether the text is base64 in the standard or the URL-safe alphabet, with or without line breaks.
fn is_base64(head: &[u8]) -> bool {
    head.len() >= 16
        && head
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/-_=\r\n".contains(byte))
}

impl fmt::Display for UnsupportedFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the file is empty: send the bytes of a PNG, JPEG or WebP image",
            Self::Heic => {
                "this is a HEIC (HEIF) image, as phones take them: convert it to JPEG, or let the phone share it as JPEG"
            }
            Self::Avif => "this is an AVIF image: convert it to PNG, JPEG or WebP",
            Self::Gif => "this is a GIF image: convert it to PNG, JPEG or WebP",
            Self::Tiff => {
                "this is a TIFF image or a camera's raw file: convert it to PNG, JPEG or WebP"
            }
            Self::Bmp => "this is a BMP image: convert it to PNG, JPEG or WebP",
            Self::Icon => "this is an icon (ICO): convert it to PNG, JPEG or WebP",
            Self::Photoshop => "this is a Photoshop document: export it as PNG, JPEG or WebP",
            Self::JpegXl => "this is a JPEG XL image: convert it to PNG, JPEG or WebP",
            Self::Jpeg2000 => "this is a JPEG 2000 image: convert it to PNG, JPEG or WebP",
            Self::Svg => "this is an SVG drawing: export it as PNG, JPEG or WebP",
            Self::Pdf => "this is a PDF document: export its image as PNG, JPEG or WebP",
            Self::Video => "this is a video: send a PNG, JPEG or WebP image",
            Self::Gzip => "this is compressed with gzip: send the image itself, not compressed again",
            Self::Zstd => {
                "this is compressed with zstd: send the image itself, not compressed again"
            }
            Self::Zip => "this is a ZIP archive: send the image itself, not an archive",
            Self::DataUri => {
                "this is the text of a data: URI: send the bytes that it stands for, decoded from base64"
            }
            Self::Base64 => {
                "this looks like base64 text: send the bytes that it stands for, decoded from base64"
            }
            Self::Html => "this is an HTML page: send a PNG, JPEG or WebP image",
            Self::Json => "this is JSON text: send a PNG, JPEG or WebP image",
            Self::Multipart => {
                "this is a multipart form: send the image itself as the body, without a form around it"
            }
            Self::Unknown => "the file is not a PNG, JPEG or WebP image",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_pictures_are_named() {
        for (file, expected) in [
            (&b""[..], UnsupportedFormat::Empty),
            (
                b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
                UnsupportedFormat::Heic,
            ),
            (
                b"\0\0\0\x18ftypmif1\0\0\0\0mif1miaf",
                UnsupportedFormat::Heic,
            ),
            (
                b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf",
                UnsupportedFormat::Avif,
            ),
            (
                b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
                UnsupportedFormat::Avif,
            ),
            (
                b"\0\0\0\x18ftypisom\0\0\0\0isommp42",
                UnsupportedFormat::Video,
            ),
            (b"GIF89a\x01\0\x01\0", UnsupportedFormat::Gif),
            (b"MM\0*\0\0\0\x08", UnsupportedFormat::Tiff),
            (b"BM\x3a\0\0\0", UnsupportedFormat::Bmp),
            (b"%PDF-1.7\n", UnsupportedFormat::Pdf),
            (b"\x1F\x8B\x08\0\0\0\0\0", UnsupportedFormat::Gzip),
            (b"\x28\xB5\x2F\xFD\x04", UnsupportedFormat::Zstd),
            (b"<?xml version='1.0'?>\n<svg/>", UnsupportedFormat::Svg),
            (b"PK\x03\x04\x14\0", UnsupportedFormat::Zip),
            (
                b"data:image/png;base64,iVBORw0KGgo=",
                UnsupportedFormat::DataUri,
            ),
            (
                b"iVBORw0KGgoAAAANSUhEUgAA\r\nAAEAAAABCAYAAAAf\n",
                UnsupportedFormat::Base64,
            ),
            (b"_9j_4AAQSkZJRgABAQAAAQABAAD", UnsupportedFormat::Base64),
            (
                b"\n<!DOCTYPE html><title>Not found</title>",
                UnsupportedFormat::Html,
            ),
            (
                b"\xEF\xBB\xBF{\"error\": \"no image\"}",
                UnsupportedFormat::Json,
            ),
            (
                b"--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n\x89PNG",
                UnsupportedFormat::Multipart,
            ),
            (b"I cannot make this image.", UnsupportedFormat::Unknown),
            (&[0; 64], UnsupportedFormat::Unknown),
        ] {
            assert_eq!(UnsupportedFormat::from_file(file), expected, "{file:?}");
        }
    }

    #[test]
    fn each_kind_has_its_own_sentence() {
        let mut sentences: Vec<String> = SIGNATURES
            .iter()
            .map(|(kind, ..)| *kind)
            .chain([
                UnsupportedFormat::Empty,
                UnsupportedFormat::Heic,
                UnsupportedFormat::Avif,
                UnsupportedFormat::Svg,
                UnsupportedFormat::DataUri,
                UnsupportedFormat::Base64,
                UnsupportedFormat::Html,
                UnsupportedFormat::Json,
                UnsupportedFormat::Multipart,
                UnsupportedFormat::Unknown,
            ])
            .map(|kind| kind.to_string())
            .collect();
        sentences.sort();
        sentences.dedup();
        assert_eq!(sentences.len(), 22);
    }
}

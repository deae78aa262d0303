//! Image files: what the header says is what the pixels are, or the file is refused, within the memory that was announced.

use std::fs;
use std::io::Cursor;
use std::sync::LazyLock;

use domain::generation::image::{Format, MAX_PIXELS, MAX_SIDE, Pixels, Recipe, Rendering};
use flate2::Crc;
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
use image::{DynamicImage, ImageEncoder, ImageResult, Rgba, RgbaImage};
use imaging::{ImagingError, Provenance};
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::sample::select;
use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq, prop_oneof};

use super::edit::{apply, edits};
use super::{Verdict, fuzz};

/// The most memory that reading a header may take, in bytes: what pixels may take when they are decoded (`imaging::limits`).
const MAX_HEADER_BYTES: usize = 256 << 20;
/// What encoders and the allocator take besides, whatever the size of the image.
const FIXED_BYTES: usize = 48 << 20;
/// The longest side that cleaning keeps, in pixels.
const MAX_CLEAN_SIDE: u32 = 4_096;

/// Valid files of every format and of several color types.
static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let drawn = RgbaImage::from_fn(23, 17, |x, y| {
        Rgba([x * 11, y * 13, x * y, 255 - x].map(|level| level.to_le_bytes()[0]))
    });
    let rgba = DynamicImage::from(drawn);
    let rgb = DynamicImage::from(rgba.to_rgb8());
    let gray = DynamicImage::from(rgba.to_luma8());
    let deep = DynamicImage::from(rgba.to_luma_alpha16());
    let mut files = Vec::new();
    for picture in [&rgba, &rgb, &gray, &deep] {
        files.push(file(|bytes| {
            picture.write_with_encoder(lying(PngEncoder::new(bytes)))
        }));
    }
    for picture in [&rgb, &gray] {
        files.push(file(|bytes| {
            picture.write_with_encoder(lying(JpegEncoder::new(bytes)))
        }));
    }
    for picture in [&rgba, &rgb] {
        files.push(file(|bytes| {
            picture.write_with_encoder(lying(WebPEncoder::new_lossless(bytes)))
        }));
    }
    let rendering = Rendering {
        allow_crop: true,
        ..Rendering::default()
    };
    for format in [Format::Png, Format::Jpeg, Format::Webp] {
        let recipe = Recipe {
            target: Pixels {
                width: 12,
                height: 16,
            },
            format,
            rendering,
        };
        let provenance = Provenance {
            model: "fake".to_owned(),
            source: "job/0".to_owned(),
            synthetic: true,
        };
        let rendered = imaging::render(&files[0], &recipe, &provenance).unwrap();
        files.push(rendered.rendition.bytes.to_vec());
    }
    files
});

fn file(write: impl FnOnce(&mut Cursor<Vec<u8>>) -> ImageResult<()>) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    write(&mut file).unwrap();
    file.into_inner()
}

/// Adds an EXIF block that says that the image lies on its side: one entry, the orientation.
fn lying<E: ImageEncoder>(mut encoder: E) -> E {
    let block = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    encoder.set_exif_metadata(block.to_vec()).unwrap();
    encoder
}

#[test]
fn the_header_and_the_pixels_agree_within_the_memory() {
    let places = prop_oneof![0..96_usize, 0..4_096_usize];
    // Sizes, lengths and offsets are numbers of two or four bytes.
    let numbers = prop_oneof![
        select(vec![0, 1, 0x7FFF, 0xFFFF, 0x10000, 0x7FFF_FFFF, u32::MAX]),
        any::<u32>(),
    ];
    let writes = vec((places, numbers, 1..=4_usize), 0..3);
    let inputs = (
        select(FILES.clone()),
        writes,
        edits(any::<u8>(), 3),
        any::<bool>(),
    );
    fuzz("pictures", &inputs, |(mut file, writes, edits, repair)| {
        for (at, number, length) in writes {
            let bytes = &number.to_be_bytes()[4 - length..];
            if let Some(place) = file.get_mut(at..at + length) {
                place.copy_from_slice(bytes);
            }
        }
        let mut file = apply(file, &edits);
        if repair {
            write_png_sums(&mut file);
        }
        check(&file)
    });
}

fn check(file: &[u8]) -> Result<Verdict, TestCaseError> {
    let before = memory("VmRSS");
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let header = imaging::inspect(file);
    let announced = imaging::memory_to_clean(file);
    let cleaned = imaging::clean(file, usize::MAX);
    let taken = memory("VmHWM").saturating_sub(before);

    prop_assert_eq!(header.is_ok(), announced.is_ok());
    let most = announced.unwrap_or(MAX_HEADER_BYTES) + 2 * file.len() + FIXED_BYTES;
    prop_assert!(
        taken <= most,
        "it took {taken} bytes, announced were {most}"
    );
    match (header, cleaned) {
        (Err(refused), cleaned) => {
            prop_assert!(!matches!(refused, ImagingError::Panicked));
            prop_assert_eq!(cleaned.err(), Some(refused));
            Ok(Verdict::Refused)
        }
        (Ok((media_type, pixels)), cleaned) => {
            let Pixels { width, height } = pixels;
            prop_assert!(width.max(height) <= MAX_SIDE && width.min(height) > 0);
            prop_assert!(u64::from(width) * u64::from(height) <= MAX_PIXELS);
            prop_assert_eq!(imaging::media_type(file), Some(media_type));
            match cleaned {
                Err(error) => {
                    prop_assert!(matches!(error, ImagingError::Unreadable { .. }), "{error}");
                    Ok(Verdict::Refused)
                }
                Ok(cleaned) => {
                    if width.max(height) <= MAX_CLEAN_SIDE {
                        prop_assert_eq!(cleaned.pixels, pixels);
                    }
                    let header = imaging::inspect(&cleaned.bytes);
                    prop_assert_eq!(header, Ok((cleaned.media_type, cleaned.pixels)));
                    Ok(Verdict::Read)
                }
            }
        }
    }
}

/// A number of `/proc/self/status`, in bytes: `VmRSS` is the memory that is in use, `VmHWM` its peak since it was reset.
fn memory(name: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kibibytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes << 10
}

/// Makes the checksums of a PNG's chunks right again. Otherwise nothing behind them is reached.
fn write_png_sums(file: &mut [u8]) {
    let mut at = 8;
    while let Some(&length) = file.get(at..).and_then(|rest| rest.first_chunk()) {
        let end = (u32::from_be_bytes(length) as usize).saturating_add(at + 8);
        let Some(part) = file.get(at + 4..end) else {
            return;
        };
        let mut sum = Crc::new();
        sum.update(part);
        let Some(place) = file.get_mut(end..end + 4) else {
            return;
        };
        place.copy_from_slice(&sum.sum().to_be_bytes());
        at = end + 4;
    }
}

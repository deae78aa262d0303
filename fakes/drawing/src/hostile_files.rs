//! Files that no vendor should send: files that are not images, damaged images, and small files that need very much
//! memory or time when they are opened.
//!
//! Each file has a name. The fault `bomb:<name>` sends the file in place of an image. A file is generated when it is
//! asked for.

use flate2::{Compression, write::ZlibEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageFormat, RgbImage, codecs::png::PngEncoder};
use std::io::{Cursor, Write};

/// The names of files that must never be delivered.
pub fn hostile_file_names() -> impl Iterator<Item = String> {
    let plain = NOT_IMAGES
        .iter()
        .map(|(name, _)| *name)
        .chain(GENERATED.iter().map(|(name, _)| *name));
    let cut = FORMATS.iter().flat_map(|(kind, _)| {
        CUT_PERCENTAGES
            .iter()
            .map(move |percent| format!("{kind}_cut_at_{percent}_percent"))
    });
    plain.map(str::to_owned).chain(cut)
}

/// The names of valid images with very much data besides their pixels. They must be delivered, and must not cost much.
pub fn heavy_file_names() -> impl Iterator<Item = &'static str> {
    HEAVY.iter().map(|(name, _)| *name)
}

/// Whether [`hostile_file`] knows this name.
pub fn is_hostile_or_heavy(name: &str) -> bool {
    heavy_file_names().any(|known| known == name) || hostile_file_names().any(|known| known == name)
}

/// The file with this name. Returns `None` if there is no such name.
pub fn hostile_file(name: &str) -> Option<Vec<u8>> {
    if let Some((_, file)) = NOT_IMAGES.iter().find(|(known, _)| *known == name) {
        return Some(file.to_vec());
    }
    let mut made = GENERATED.iter().chain(HEAVY);
    if let Some((_, make)) = made.find(|(known, _)| *known == name) {
        return Some(make());
    }
    let (kind, percent) = name.strip_suffix("_percent")?.split_once("_cut_at_")?;
    let (_, format) = FORMATS.iter().find(|(known, _)| *known == kind)?;
    let percent: usize = percent
        .parse()
        .ok()
        .filter(|percent| CUT_PERCENTAGES.contains(percent))?;
    let mut file = valid_image(*format);
    file.truncate(file.len() * percent / 100);
    Some(file)
}

/// The formats that are cut off.
const FORMATS: &[(&str, ImageFormat)] = &[
    ("png", ImageFormat::Png),
    ("jpeg", ImageFormat::Jpeg),
    ("webp", ImageFormat::WebP),
];
/// Where files are cut off, in percent of the file.
const CUT_PERCENTAGES: &[usize] = &[1, 10, 50, 90, 99];

/// Files without any pixels.
const NOT_IMAGES: &[(&str, &[u8])] = &[
    ("nothing", b""),
    ("zeros", &[0; 4096]),
    ("words", b"I cannot make this picture."),
    ("gif", b"GIF89a\x01\0\x01\0\0\0\0;"),
    ("bmp", b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0"),
    ("tiff", b"II*\0\x08\0\0\0\0\0"),
    ("avif", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"),
    ("svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
    ("html", b"<!doctype html><script>alert(1)</script>"),
    ("json", b"{\"error\": \"no picture\"}"),
    ("sound", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0"),
    ("pdf", b"%PDF-1.7\n%%EOF"),
    ("archive", b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    ("png_signature_alone", b"\x89PNG\r\n\x1a\n"),
    ("jpeg_start_alone", b"\xff\xd8\xff\xe0"),
    ("webp_header_alone", b"RIFF\x1a\0\0\0WEBPVP8L"),
    ("webp_of_16384", b"RIFF\x26\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0VP8L\x08\0\0\0\x2f\xff\xff\xff\x0f\0\0\0"),
];

type Generate = fn() -> Vec<u8>;

/// Images that cannot be decoded, cannot be decoded within limits, or have a size that no job asks for.
const GENERATED: &[(&str, Generate)] = &[
    // The headers of these files declare sizes that are too large, zero, or wrong.
    ("png_of_65535", || png_sized(65_535, 65_535)),
    ("png_of_four_billion", || png_sized(u32::MAX >> 1, 2)),
    ("png_of_a_line", || png_sized(16_385, 1)),
    ("png_of_nothing", || png_sized(0, 0)),
    ("png_of_more_than_it_has", || png_sized(8_000, 8_000)),
    ("jpeg_of_65500", || jpeg_sized(65_500, 65_500)),
    ("jpeg_of_nothing", || jpeg_sized(0, 0)),
    // 64 megapixels of 16 bits in a file of 0.5 MB: 512 MB when decoded.
    ("png_of_sixteen_bits", || {
        blank(8_000, 8_000, ExtendedColorType::Rgba16)
    }),
    ("png_of_another_shape", || {
        blank(4_000, 3, ExtendedColorType::Rgb8)
    }),
    ("png_of_one_pixel", || blank(1, 1, ExtendedColorType::Rgb8)),
    // The contents of these files contradict their headers.
    ("png_without_pixels", || png_with(|_| Vec::new())),
    ("png_of_garbage", || {
        png_with(|_| chunk(*b"IDAT", b"no pixels at all"))
    }),
    ("png_with_a_wrong_sum", || {
        png_with(|chunks| {
            let mut chunks = chunks.to_vec();
            if let Some(last) = chunks.last_mut() {
                *last ^= 1;
            }
            chunks
        })
    }),
    ("png_of_an_endless_chunk", || {
        png_with(|chunks| [&u32::MAX.to_be_bytes(), &chunks[4..]].concat())
    }),
    ("jpeg_without_tables", || without_jpeg_segments(0xDB)),
    ("jpeg_without_codes", || without_jpeg_segments(0xC4)),
    // Half of the pixels are missing, but the end marker is there.
    ("jpeg_cut_in_half_and_ended", || {
        let jpeg = valid_image(ImageFormat::Jpeg);
        [&jpeg[..jpeg.len() / 2], &[0xFF, 0xD9]].concat()
    }),
    ("jpeg_without_its_end", || {
        let mut jpeg = valid_image(ImageFormat::Jpeg);
        jpeg.truncate(jpeg.len() - 2);
        jpeg
    }),
    ("png_without_its_end", || {
        let mut png = valid_image(ImageFormat::Png);
        png.truncate(png.len() - 12);
        png
    }),
    ("webp_of_garbage", || {
        let mut webp = valid_image(ImageFormat::WebP);
        webp[40..].iter_mut().for_each(|byte| *byte ^= 0x55);
        webp
    }),
    // Longer than any answer that is read to its end.
    ("png_with_70_megabytes_behind", || {
        let mut png = valid_image(ImageFormat::Png);
        png.resize(png.len() + 70_000_000, b' ');
        png
    }),
];

/// Valid images with very much data besides their pixels.
const HEAVY: &[(&str, Generate)] = &[
    // The first scan has all pixels, and 4,000 empty scans follow.
    ("jpeg_of_4000_scans", || {
        let jpeg = valid_image(ImageFormat::Jpeg);
        let (all, end) = jpeg.split_at(jpeg.len() - 2);
        [
            all,
            &[0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0].repeat(4_000),
            end,
        ]
        .concat()
    }),
    ("png_with_a_profile_of_600_megabytes", || {
        png_with_chunks(&chunk(
            *b"iCCP",
            &[b"profile\0\0", &deflated(600)[..]].concat(),
        ))
    }),
    ("png_with_a_comment_of_600_megabytes", || {
        png_with_chunks(&chunk(
            *b"zTXt",
            &[b"Comment\0\0", &deflated(600)[..]].concat(),
        ))
    }),
    ("png_with_100000_comments", || {
        png_with_chunks(&chunk(*b"tEXt", b"Comment\0a").repeat(100_000))
    }),
    ("jpeg_with_100000_comments", || {
        let jpeg = valid_image(ImageFormat::Jpeg);
        [
            &jpeg[..2],
            &[0xFF, 0xFE, 0, 3, b'a'].repeat(100_000),
            &jpeg[2..],
        ]
        .concat()
    }),
];

/// A valid image of 1024×1024 pixels that does not compress well.
fn valid_image(format: ImageFormat) -> Vec<u8> {
    let pixels = RgbImage::from_fn(1024, 1024, |x, y| {
        let [a, b, ..] = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).to_be_bytes();
        image::Rgb([a, b, (x / 4 + y / 8).to_be_bytes()[3]])
    });
    let mut file = Cursor::new(Vec::new());
    pixels
        .write_to(&mut file, format)
        .expect("writing to memory does not fail");
    file.into_inner()
}

/// A PNG of one color, which is small as a file and large when it is decoded.
fn blank(width: u32, height: u32, color: ExtendedColorType) -> Vec<u8> {
    let bits = usize::from(color.bits_per_pixel()) * width as usize * height as usize;
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(&vec![0; bits / 8], width, height, color)
        .expect("writing to memory does not fail");
    file
}

/// A PNG whose header declares this size.
fn png_sized(width: u32, height: u32) -> Vec<u8> {
    // The signature takes 8 bytes. The chunk IHDR ends at 33, and its fields after the size are at 24 to 29.
    let png = valid_image(ImageFormat::Png);
    let header = [
        &width.to_be_bytes()[..],
        &height.to_be_bytes(),
        &png[24..29],
    ]
    .concat();
    [&png[..8], &chunk(*b"IHDR", &header), &png[33..]].concat()
}

/// A PNG with its IDAT chunks replaced by what `replace` returns for them.
fn png_with(replace: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let png = valid_image(ImageFormat::Png);
    // The signature and the chunk IHDR take 33 bytes, the chunk IEND takes 12.
    let (start, rest) = png.split_at(33);
    let (pixel_chunks, end) = rest.split_at(rest.len() - 12);
    [start, &replace(pixel_chunks), end].concat()
}

/// One chunk of a PNG file.
fn chunk(name: [u8; 4], data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut sum = flate2::Crc::new();
    sum.update(&name);
    sum.update(data);
    [&length[..], &name, data, &sum.sum().to_be_bytes()].concat()
}

/// A JPEG whose header declares this size.
fn jpeg_sized(width: u16, height: u16) -> Vec<u8> {
    let mut jpeg = valid_image(ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|marker| marker == [0xFF, 0xC0]);
    let frame = frame.expect("a JPEG has a frame");
    // After the marker (2 bytes), the length (2) and the precision (1).
    jpeg[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    jpeg
}

/// A JPEG from which all segments with the marker `kind` that precede the first scan are removed.
fn without_jpeg_segments(kind: u8) -> Vec<u8> {
    let jpeg = valid_image(ImageFormat::Jpeg);
    let (start, mut rest) = jpeg.split_at(2);
    let mut kept = start.to_vec();
    while let [0xFF, marker, high, low, ..] = *rest
        && marker != 0xDA
    {
        let length = usize::from(u16::from_be_bytes([high, low])) + 2;
        let (segment, after) = rest.split_at(length);
        if marker != kind {
            kept.extend(segment);
        }
        rest = after;
    }
    kept.extend(rest);
    kept
}

/// A PNG with these chunks before its pixels.
fn png_with_chunks(chunks: &[u8]) -> Vec<u8> {
    let png = valid_image(ImageFormat::Png);
    let (start, rest) = png.split_at(33);
    [start, chunks, rest].concat()
}

/// This many megabytes of zeros, compressed by zlib.
fn deflated(megabytes: usize) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    let zeros = vec![0; 1 << 20];
    for _ in 0..megabytes {
        packed
            .write_all(&zeros)
            .expect("writing to memory does not fail");
    }
    packed.finish().expect("writing to memory does not fail")
}

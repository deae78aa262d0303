//! Color tags and transparency of files. The expected values are computed here, by the formulas of the specifications.

use moxcms::{DataColorSpace, ToneReprCurve};

use super::*;

const STORED: [u8; 3] = [200, 100, 50];

/// A PNG of one color, with more chunks before its pixels.
fn png_with(chunks: &[([u8; 4], Vec<u8>)]) -> Vec<u8> {
    let plain = png(&RgbImage::from_pixel(64, 64, Rgb(STORED)).into());
    let mut file = plain[..33].to_vec();
    for (name, data) in chunks {
        file.extend(png_chunk(*name, data));
    }
    file.extend(&plain[33..]);
    file
}

fn converted(file: &[u8]) -> [u8; 3] {
    let rendition = rendered(file, target(64, 64), Format::Png).unwrap();
    pixels(&rendition.bytes).get_pixel(9, 9).0
}

fn refused(file: &[u8]) -> String {
    clean(file, MAX_INPUT_BYTES).unwrap_err().to_string()
}

fn gamma(hundred_thousandths: u32) -> ([u8; 4], Vec<u8>) {
    (*b"gAMA", hundred_thousandths.to_be_bytes().to_vec())
}

/// A cHRM chunk: x and y of white, red, green and blue.
fn primaries(points: [u32; 8]) -> ([u8; 4], Vec<u8>) {
    let bytes = points.iter().flat_map(|point| point.to_be_bytes());
    (*b"cHRM", bytes.collect())
}

const SRGB: [u32; 8] = [
    31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000,
];
const P3: [u32; 8] = [
    31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000,
];

/// The value of sRGB for linear light from 0 to 1.
fn value(light: f64) -> u8 {
    let value = if light <= 0.003_130_8 {
        light * 12.92
    } else {
        1.055 * light.powf(1.0 / 2.4) - 0.055
    };
    (0..=255_u8)
        .min_by(|a, b| {
            let far = |level: &u8| (f64::from(*level) - value * 255.0).abs();
            far(a).total_cmp(&far(b))
        })
        .unwrap()
}

#[test]
fn gamma_is_applied() {
    let linear = STORED.map(|level| value(f64::from(level) / 255.0));
    assert_near(converted(&png_with(&[gamma(100_000)])), linear, 1);
    // Programs write the curve of sRGB as this exponent.
    assert_eq!(converted(&png_with(&[gamma(45_455)])), STORED);
    assert_eq!(
        converted(&png_with(&[gamma(45_455), primaries(SRGB)])),
        STORED
    );
    let brighter = STORED.map(|level| value((f64::from(level) / 255.0).powf(1.8)));
    assert_near(converted(&png_with(&[gamma(55_556)])), brighter, 1);
    for nonsense in [0, 1, u32::MAX] {
        assert_eq!(converted(&png_with(&[gamma(nonsense)])), STORED);
    }
}

#[test]
fn primaries_are_applied() {
    // Display P3 with the curve of sRGB, as CSS Color 4 converts it.
    let expected = [215, 93, 31];
    assert_near(converted(&png_with(&[primaries(P3)])), expected, 1);
    assert_near(
        converted(&png_with(&[gamma(45_455), primaries(P3)])),
        expected,
        1,
    );
    assert_eq!(converted(&png_with(&[primaries([0; 8])])), STORED);
    // sRGB by name takes precedence.
    assert_eq!(
        converted(&png_with(&[
            (*b"sRGB", vec![0]),
            gamma(100_000),
            primaries(P3)
        ])),
        STORED
    );
}

#[test]
fn cicp_is_applied() {
    let cicp = |numbers: [u8; 4]| (*b"cICP", numbers.to_vec());
    assert_near(
        converted(&png_with(&[cicp([12, 13, 0, 1])])),
        [215, 93, 31],
        1,
    );
    assert_eq!(converted(&png_with(&[cicp([1, 13, 0, 1])])), STORED);
    let linear = STORED.map(|level| value(f64::from(level) / 255.0));
    assert_near(converted(&png_with(&[cicp([1, 8, 0, 1])])), linear, 1);
    // It takes precedence over everything else, unless it is "unspecified".
    assert_eq!(
        converted(&png_with(&[cicp([1, 13, 0, 1]), gamma(100_000)])),
        STORED
    );
    assert_near(
        converted(&png_with(&[cicp([2, 2, 0, 1]), gamma(100_000)])),
        linear,
        1,
    );
    for (numbers, word) in [
        ([9, 16, 0, 1], "HDR"),
        ([9, 18, 0, 1], "HDR"),
        ([1, 13, 1, 1], "video"),
        ([1, 13, 0, 0], "video"),
        ([77, 13, 0, 1], "cICP"),
    ] {
        assert!(
            refused(&png_with(&[cicp(numbers)])).contains(word),
            "{numbers:?}"
        );
    }
}

/// A gray profile that maps levels to L* of CIELAB.
#[test]
fn a_gray_profile_in_lab_is_applied() {
    let mut profile = ColorProfile::new_gray_with_gamma(1.0);
    profile.pcs = DataColorSpace::Lab;
    profile.gray_trc = Some(ToneReprCurve::Lut(vec![0, 65_535]));
    let mut file = Vec::new();
    let mut encoder = PngEncoder::new(&mut file);
    encoder.set_icc_profile(profile.encode().unwrap()).unwrap();
    let gray = GrayImage::from_pixel(64, 64, image::Luma([128]));
    encoder
        .write_image(&gray, 64, 64, image::ExtendedColorType::L8)
        .unwrap();
    let lightness = 128.0 / 255.0 * 100.0;
    let light = ((lightness + 16.0) / 116.0_f64).powi(3);
    assert_near(converted(&file), [value(light); 3], 1);
}

#[test]
fn cmyk_without_a_profile_is_ink_on_white() {
    let ink = [200_u8, 30, 90, 40];
    // The encoder stores it inverted, as Adobe does.
    let stored = ink.repeat(64 * 64);
    let mut jpeg = Vec::new();
    jpeg_encoder::Encoder::new(&mut jpeg, 95)
        .encode(&stored, 64, 64, jpeg_encoder::ColorType::Cmyk)
        .unwrap();
    let expected = [0, 1, 2].map(|at| {
        let left = u16::from(255 - ink[at]) * u16::from(255 - ink[3]) / 255;
        u8::try_from(left).unwrap()
    });
    assert_near(converted(&jpeg), expected, 4);
}

#[test]
fn unused_bits_of_a_transparent_level_are_ignored() {
    for bits in [1, 2, 4, 8_u8] {
        // Two rows of eight pixels: one of the highest level, one of level 0.
        let row = vec![0xFF; usize::from(bits)];
        let raw = [&[0], &row[..], &[0], &vec![0; usize::from(bits)]].concat();
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        file.extend(png_chunk(
            *b"IHDR",
            &[0, 0, 0, 8, 0, 0, 0, 2, bits, 0, 0, 0, 0],
        ));
        file.extend(png_chunk(*b"tRNS", &[0x5A, 0xFF]));
        file.extend(png_chunk(*b"IDAT", &stored(&raw)));
        file.extend(png_chunk(*b"IEND", &[]));
        let rendition = rendered(&file, target(8, 2), Format::Png).unwrap();
        let shown = image::load_from_memory(&rendition.bytes)
            .unwrap()
            .to_rgba8();
        assert_eq!(shown.get_pixel(3, 0).0[3], 0, "{bits} bits");
        assert_eq!(shown.get_pixel(3, 1).0, [0, 0, 0, 255], "{bits} bits");
    }
}

/// A zlib stream without compression.
fn stored(raw: &[u8]) -> Vec<u8> {
    let length = u16::try_from(raw.len()).unwrap();
    let (low, high) = raw.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    let sum = (high << 16 | low).to_be_bytes();
    let head = [0x78, 1, 1];
    [
        &head[..],
        &length.to_le_bytes(),
        &(!length).to_le_bytes(),
        raw,
        &sum,
    ]
    .concat()
}

#[test]
fn a_webp_with_a_jpeg_exif_prefix_is_turned() {
    let picture = RgbImage::from_fn(60, 40, |x, _| Rgb(if x < 30 { RED } else { BLUE }));
    for name in [&b""[..], b"Exif\0\0"] {
        let mut webp = Vec::new();
        let mut encoder = WebPEncoder::new_lossless(&mut webp);
        let exif = [name, &exif_orientation(6)].concat();
        encoder.set_exif_metadata(exif).unwrap();
        encoder
            .write_image(&picture, 60, 40, image::ExtendedColorType::Rgb8)
            .unwrap();
        let rendition = rendered(&webp, target(40, 60), Format::Png).unwrap();
        let shown = pixels(&rendition.bytes);
        assert_near(shown.get_pixel(20, 5).0, RED, 2);
        assert_near(shown.get_pixel(20, 55).0, BLUE, 2);
    }
}

//! Tests of the whole path, from bytes to bytes. The images are generated: none is in the repository.

mod colors;
mod damaged;
mod jpegs;

use std::{
    io::Cursor,
    time::{Duration, Instant},
};

use bytes::Bytes;
use image::{
    DynamicImage, GrayImage, ImageEncoder, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage,
    codecs::{png::PngEncoder, webp::WebPEncoder},
};
use moxcms::ColorProfile;

use domain::generation::image::{
    AspectRatio, Chroma, Encoding, Fit, MAX_INPUT_BYTES, Rendering, Size,
};

use super::*;

const FORMATS: [Format; 3] = [Format::Png, Format::Jpeg, Format::Webp];
const RED: [u8; 3] = [255, 0, 0];
const GREEN: [u8; 3] = [0, 255, 0];
const BLUE: [u8; 3] = [0, 0, 255];
const WHITE: [u8; 3] = [255, 255, 255];

/// The usual recipe: all settings at their defaults.
fn recipe(target: Pixels, format: Format) -> Recipe {
    Recipe {
        target,
        format,
        rendering: Rendering::default(),
    }
}

fn rendered(original: &[u8], target: Pixels, format: Format) -> Result<Rendition, ImagingError> {
    rendition(original, &recipe(target, format), ResampleSpace::Linear)
}

fn encoded(pixels: &DynamicImage, format: Format) -> Vec<u8> {
    encode::encode(pixels, format, Encoding::default()).unwrap()
}

#[test]
fn every_png_has_exactly_its_size() {
    check_table(Format::Png);
}

#[test]
fn every_jpeg_has_exactly_its_size() {
    check_table(Format::Jpeg);
}

#[test]
fn every_webp_has_exactly_its_size() {
    check_table(Format::Webp);
}

/// Tries each ratio, size and fit, with originals of the exact size, of nearly the same shape, and of another shape.
#[expect(clippy::print_stdout, reason = "reports how many were tried")]
fn check_table(format: Format) {
    let (mut renditions, mut refused) = (0, 0);
    for &ratio in AspectRatio::ALL {
        for size in [Size::OneK, Size::TwoK] {
            let target = domain::generation::image::pixels(ratio, size);
            let Pixels { width, height } = target;
            let other_shape = if width > height {
                (1536, 1024)
            } else {
                (1024, 1536)
            };
            for (w, h) in [
                (width, height),
                (width * 51 / 50, height * 99 / 100),
                other_shape,
            ] {
                let original = png_original(w, h);
                for fit in [Fit::Cover, Fit::Contain, Fit::Strict] {
                    let recipe = Recipe {
                        target,
                        format,
                        rendering: Rendering {
                            fit,
                            allow_crop: true,
                            allow_upscale: true,
                            ..Rendering::default()
                        },
                    };
                    match rendition(&original, &recipe, ResampleSpace::Linear) {
                        Err(ImagingError::WrongShape { .. }) if fit == Fit::Strict => {
                            assert_ne!((w, h), (width, height));
                            refused += 1;
                        }
                        rendition => {
                            let rendition = rendition.unwrap();
                            let expected = Ok((format.media_type(), target));
                            assert_eq!(inspect(&rendition.bytes), expected);
                            assert_eq!(rendition.pixels, target);
                            assert_eq!(rendition.media_type, format.media_type());
                            renditions += 1;
                        }
                    }
                }
            }
        }
    }
    println!(
        "{format}: {renditions} renditions with exactly their size; {refused} refused by strict"
    );
    assert_eq!(renditions + refused, 14 * 2 * 3 * 3);
}

#[test]
fn strict_crops_nothing() {
    // A red frame of one pixel is still there after resizing 100×99 to 50×50.
    let original = RgbImage::from_fn(100, 99, |x, y| {
        Rgb(if x == 0 || x == 99 || y == 0 || y == 98 {
            RED
        } else {
            WHITE
        })
    });
    let mut recipe = recipe(target(50, 50), Format::Png);
    recipe.rendering.fit = Fit::Strict;
    let shown = rendition(&png(&original.into()), &recipe, ResampleSpace::Linear).unwrap();
    let shown = pixels(&shown.bytes);
    let [left, right, top, bottom] =
        [(0, 25), (49, 25), (25, 0), (25, 49)].map(|(x, y)| shown.get_pixel(x, y).0[1]);
    assert!(
        left.abs_diff(right) <= 1 && top.abs_diff(bottom) <= 1,
        "{left} {right} {top} {bottom}"
    );
    assert!(left < 220 && top < 220, "{left} {top}");
}

#[test]
fn contain_pads_with_white_or_transparency() {
    let contain = |format| {
        let mut recipe = recipe(target(300, 300), format);
        recipe.rendering.fit = Fit::Contain;
        recipe
    };
    let opaque = png(&RgbImage::from_pixel(600, 300, Rgb(RED)).into());
    let shown = rendition(&opaque, &contain(Format::Png), ResampleSpace::Linear).unwrap();
    let shown = image::load_from_memory(&shown.bytes).unwrap();
    assert!(!shown.color().has_alpha());
    for (y, expected) in [(0, WHITE), (74, WHITE), (75, RED), (224, RED), (225, WHITE)] {
        assert_eq!(
            shown.to_rgb8().get_pixel(150, y).0,
            expected,
            "row {y} of an opaque image"
        );
    }

    let translucent = png(&RgbaImage::from_pixel(600, 300, Rgba([255, 0, 0, 128])).into());
    for (format, padding) in [
        (Format::Png, [255, 255, 255, 0]),
        (Format::Jpeg, [255, 255, 255, 255]),
    ] {
        let shown = rendition(&translucent, &contain(format), ResampleSpace::Linear).unwrap();
        let shown = image::load_from_memory(&shown.bytes).unwrap().to_rgba8();
        assert_near(shown.get_pixel(150, 20).0, padding, 2);
    }
}

#[test]
fn pixels_are_averaged_in_linear_light() {
    // Fine stripes of black and white: half of the light is level 188.
    let stripes = RgbImage::from_fn(400, 400, |x, _| {
        Rgb(if x % 2 == 0 { [0; 3] } else { WHITE })
    });
    let recipe = recipe(target(100, 100), Format::Png);
    let level = |space| {
        let file = png(&stripes.clone().into());
        let rendition = rendition(&file, &recipe, space).unwrap();
        pixels(&rendition.bytes).get_pixel(50, 50).0
    };
    assert_near(level(ResampleSpace::Linear), [188; 3], 1);
    assert_near(level(ResampleSpace::Encoded), [128; 3], 1);
}

#[test]
fn encoding_settings_are_applied() {
    let picture = DynamicImage::from(RgbImage::from_fn(128, 128, |x, y| {
        Rgb([x * 2, y * 2, (x ^ y) * 2].map(|level| level.to_le_bytes()[0]))
    }));
    let write = |format, encoding| encode::encode(&picture, format, encoding).unwrap();
    let plain = Encoding::default();
    let of = |quality| Encoding {
        quality: Some(quality),
        ..plain
    };
    for format in [Format::Jpeg, Format::Webp] {
        assert!(write(format, of(30)).len() < write(format, of(95)).len());
    }
    let marker = |file: &[u8], marker| file.windows(2).any(|two| two == [0xFF, marker]);
    let progressive = Encoding {
        progressive: true,
        ..plain
    };
    assert!(marker(&write(Format::Jpeg, progressive), 0xC2));
    assert!(!marker(&write(Format::Jpeg, plain), 0xC2));

    let full = Encoding {
        chroma: Chroma::Full,
        ..plain
    };
    // The sampling factors of the first channel in the frame header.
    let sampling = |file: &[u8]| {
        let frame = file.windows(2).position(|two| two == [0xFF, 0xC0]).unwrap();
        file[frame + 11]
    };
    assert_eq!(sampling(&write(Format::Jpeg, full)), 0x11);
    assert_eq!(sampling(&write(Format::Jpeg, plain)), 0x22);

    let lossless = Encoding {
        lossless: true,
        ..plain
    };
    assert_eq!(
        pixels(&write(Format::Webp, lossless)),
        *picture.as_rgb8().unwrap()
    );
    assert_ne!(
        pixels(&write(Format::Webp, plain)),
        *picture.as_rgb8().unwrap()
    );
}

/// The metadata are the XMP packet and the color profile, and nothing else.
#[test]
fn provenance_is_written_and_pixels_do_not_change() {
    let provenance = Provenance {
        model: "a<b>&\"c\"".to_owned(),
        source: "job_1/0".to_owned(),
        synthetic: false,
    };
    let opaque = png_original(640, 480);
    let mut translucent = RgbaImage::from_pixel(640, 480, Rgba([200, 40, 0, 128]));
    translucent.put_pixel(3, 3, Rgba([0, 0, 0, 255]));
    let translucent = png(&translucent.into());
    for (original, format, lossless) in [
        (&opaque, Format::Png, false),
        (&opaque, Format::Jpeg, false),
        (&opaque, Format::Webp, false),
        (&opaque, Format::Webp, true),
        (&translucent, Format::Png, false),
        (&translucent, Format::Webp, false),
        (&translucent, Format::Webp, true),
    ] {
        let mut recipe = recipe(target(320, 240), format);
        recipe.rendering.encoding.lossless = lossless;
        let plain = rendition(original, &recipe, ResampleSpace::Linear).unwrap();
        let rendered = render(original, &recipe, &provenance).unwrap();
        for file in [&rendered.rendition, &rendered.thumbnail] {
            let mut decoder = image::ImageReader::new(Cursor::new(&file.bytes))
                .with_guessed_format()
                .unwrap()
                .into_decoder()
                .unwrap();
            let xmp = image::ImageDecoder::xmp_metadata(&mut decoder).unwrap();
            let xmp = String::from_utf8(xmp.unwrap()).unwrap();
            assert!(
                xmp.contains("digitalsourcetype/trainedAlgorithmicMedia<"),
                "{xmp}"
            );
            assert!(
                xmp.contains("<Iptc4xmpExt:AISystemUsed>a&#60;b&#62;&#38;&#34;c&#34;<"),
                "{xmp}"
            );
            assert!(xmp.contains("<dc:identifier>job_1/0<"), "{xmp}");
            let profile = image::ImageDecoder::icc_profile(&mut decoder).unwrap();
            assert_eq!(
                profile.is_some(),
                file.media_type != Format::Png.media_type()
            );
        }
        let marked = image::load_from_memory(&rendered.rendition.bytes).unwrap();
        assert_eq!(
            marked,
            image::load_from_memory(&plain.bytes).unwrap(),
            "{format}"
        );
        let thumbnail = image::load_from_memory(&rendered.thumbnail.bytes).unwrap();
        assert_eq!((thumbnail.width(), thumbnail.height()), (320, 240));
        assert_eq!(rendered, render(original, &recipe, &provenance).unwrap());
    }
}

#[test]
fn the_same_original_gives_the_same_bytes() {
    let original = png_original(330, 250);
    for format in FORMATS {
        let once = rendered(&original, target(320, 240), format).unwrap();
        assert_eq!(once, rendered(&original, target(320, 240), format).unwrap());
    }
}

#[test]
fn a_picture_of_the_right_size_keeps_its_pixels() {
    let original = png_original(320, 240);
    let rendition = rendered(&original, target(320, 240), Format::Png).unwrap();
    assert_eq!(pixels(&original), pixels(&rendition.bytes));
}

#[test]
fn the_crop_is_centered() {
    // 4 % too wide. Red on the left and blue on the right are cropped away. The white line is the middle.
    let original = RgbImage::from_fn(520, 500, |x, _| {
        Rgb(match x {
            0..8 => RED,
            512.. => BLUE,
            258..262 => WHITE,
            _ => GREEN,
        })
    });
    let rendition = rendered(&png(&original.into()), target(500, 500), Format::Png).unwrap();
    let rendition = pixels(&rendition.bytes);
    for (x, expected) in [
        (0, GREEN),
        (499, GREEN),
        (247, GREEN),
        (248, WHITE),
        (251, WHITE),
    ] {
        assert_eq!(rendition.get_pixel(x, 250).0, expected, "at {x}");
    }
}

#[test]
fn pictures_are_turned_upright() {
    // The stored corners are red and green at the top, blue and white at the bottom. The upper two after turning
    // differ.
    fn check(exif: u8, top_left: [u8; 3], top_right: [u8; 3]) {
        let stored = RgbImage::from_fn(120, 80, |x, y| {
            Rgb(match (x < 60, y < 40) {
                (true, true) => RED,
                (false, true) => GREEN,
                (true, false) => BLUE,
                (false, false) => WHITE,
            })
        });
        let (width, height) = if exif < 5 { (120, 80) } else { (80, 120) };
        let jpeg = encoded(&stored.clone().into(), Format::Jpeg);
        let jpeg = with_jpeg_segment(
            &jpeg,
            0xE1,
            &[b"Exif\0\0", &exif_orientation(exif)[..]].concat(),
        );
        let mut png = Vec::new();
        let mut encoder = PngEncoder::new(&mut png);
        encoder.set_exif_metadata(exif_orientation(exif)).unwrap();
        encoder
            .write_image(&stored, 120, 80, image::ExtendedColorType::Rgb8)
            .unwrap();

        for original in [jpeg, png] {
            // Once at its own size, once resized.
            for shrink in [1, 2] {
                let target = target(width / shrink, height / shrink);
                let rendition = rendered(&original, target, Format::Png).unwrap();
                let shown = pixels(&rendition.bytes);
                assert_eq!(shown.dimensions(), (target.width, target.height));
                assert_near(shown.get_pixel(10, 10).0, top_left, 4);
                assert_near(shown.get_pixel(target.width - 10, 10).0, top_right, 4);
            }
        }
    }
    check(1, RED, GREEN);
    check(2, GREEN, RED);
    check(3, WHITE, BLUE);
    check(4, BLUE, WHITE);
    check(5, RED, BLUE);
    check(6, BLUE, RED);
    check(7, WHITE, GREEN);
    check(8, GREEN, WHITE);
}

#[test]
fn transparency_is_kept_or_becomes_white() {
    fn check(alpha: u8, format: Format, expected: [u8; 4], has_alpha: bool) {
        let original = png(&RgbaImage::from_pixel(200, 200, Rgba([200, 40, 0, alpha])).into());
        for side in [200, 100] {
            let rendition = rendered(&original, target(side, side), format).unwrap();
            let rendition = image::load_from_memory(&rendition.bytes).unwrap();
            assert_eq!(
                rendition.color().has_alpha(),
                has_alpha,
                "{format}, {alpha}"
            );
            assert_near(rendition.to_rgba8().get_pixel(50, 50).0, expected, 6);
        }
    }
    check(128, Format::Png, [200, 40, 0, 128], true);
    check(128, Format::Webp, [200, 40, 0, 128], true);
    check(128, Format::Jpeg, [227, 147, 127, 255], false);
    check(0, Format::Jpeg, [255, 255, 255, 255], false);
    // An alpha channel that is opaque everywhere is dropped.
    check(255, Format::Png, [200, 40, 0, 255], false);
    check(255, Format::Webp, [200, 40, 0, 255], false);
}

#[test]
fn transparent_pixels_do_not_bleed_into_their_neighbours() {
    // Transparent red beside opaque green: no red may appear at the edge.
    let original = RgbaImage::from_fn(200, 200, |x, _| {
        Rgba(if x < 101 {
            [255, 0, 0, 0]
        } else {
            [0, 255, 0, 255]
        })
    });
    let rendition = rendered(&png(&original.into()), target(100, 100), Format::Png).unwrap();
    let rendition = image::load_from_memory(&rendition.bytes)
        .unwrap()
        .to_rgba8();
    assert!(
        rendition
            .pixels()
            .all(|&Rgba([red, _, _, alpha])| red == 0 || alpha == 0)
    );
}

#[test]
fn colors_are_converted_to_srgb() {
    fn check(profile: &ColorProfile, expected: [u8; 3]) {
        let mut original = Vec::new();
        let mut encoder = PngEncoder::new(&mut original);
        encoder.set_icc_profile(profile.encode().unwrap()).unwrap();
        let stored = RgbImage::from_pixel(64, 64, Rgb([200, 100, 50]));
        encoder
            .write_image(&stored, 64, 64, image::ExtendedColorType::Rgb8)
            .unwrap();
        let rendition = rendered(&original, target(64, 64), Format::Png).unwrap();
        assert_near(pixels(&rendition.bytes).get_pixel(9, 9).0, expected, 1);
    }
    check(&ColorProfile::new_srgb(), [200, 100, 50]);
    check(&ColorProfile::new_display_p3(), [215, 93, 31]);
    check(&ColorProfile::new_gray_with_gamma(2.2), [200, 100, 50]);
}

#[test]
fn gray_and_sixteen_bits_become_eight_bit_rgb() {
    let gray = GrayImage::from_pixel(64, 64, image::Luma([90]));
    let deep = image::ImageBuffer::from_pixel(64, 64, Rgb([23_130_u16, 23_130, 23_130]));
    for original in [DynamicImage::from(gray), DynamicImage::from(deep)] {
        let rendition = rendered(&png(&original), target(64, 64), Format::Png).unwrap();
        let rendition = image::load_from_memory(&rendition.bytes).unwrap();
        assert_eq!(rendition.as_rgb8().unwrap().get_pixel(5, 5).0, [90; 3]);
    }
}

#[test]
fn metadata_is_not_copied() {
    const SECRET: &[u8] = b"51.5072N 0.1276W, a prompt, a name";
    let exif = [&exif_orientation(1)[..], SECRET].concat();
    let xmp = [&b"XML:com.adobe.xmp\0\0\0\0\0"[..], SECRET].concat();
    let picture = RgbImage::from_pixel(64, 64, Rgb([10, 200, 90]));

    let plain = png(&picture.clone().into());
    let mut planted_png = plain[..33].to_vec(); // signature and header
    for (name, data) in [
        (b"tEXt", [b"Comment\0", SECRET].concat()),
        (b"iTXt", xmp),
        (b"eXIf", exif.clone()),
        (b"prVt", SECRET.to_vec()),
    ] {
        planted_png.extend(png_chunk(*name, &data));
    }
    planted_png.extend(&plain[33..]);
    planted_png.extend(SECRET);

    let mut planted_jpeg = encoded(&picture.clone().into(), Format::Jpeg);
    for (marker, header) in [
        (0xE1, &b"Exif\0\0"[..]),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
        (0xED, b"Photoshop 3.0\0"),
        (0xFE, b""),
    ] {
        let data = [header, &exif].concat();
        planted_jpeg = with_jpeg_segment(&planted_jpeg, marker, &data);
    }
    planted_jpeg.extend(SECRET);

    let mut planted_webp = Vec::new();
    let mut encoder = WebPEncoder::new_lossless(&mut planted_webp);
    encoder.set_exif_metadata(exif).unwrap();
    encoder
        .write_image(&picture, 64, 64, image::ExtendedColorType::Rgb8)
        .unwrap();
    planted_webp.extend(SECRET);

    let leaks = |bytes: &[u8]| {
        [
            SECRET,
            b"Exif",
            b"eXIf",
            b"EXIF",
            b"tEXt",
            b"iTXt",
            b"adobe",
            b"Photoshop",
        ]
        .iter()
        .any(|word| bytes.windows(word.len()).any(|window| window == *word))
    };
    for original in [planted_png, planted_jpeg, planted_webp] {
        assert!(leaks(&original));
        for (side, format) in [64, 32]
            .into_iter()
            .flat_map(|side| FORMATS.map(|f| (side, f)))
        {
            let rendition = rendered(&original, target(side, side), format).unwrap();
            assert!(!leaks(&rendition.bytes), "{format}");
        }
        let cleaned = clean(&original, MAX_INPUT_BYTES).unwrap();
        assert!(!leaks(&cleaned.bytes), "cleaned");
    }
}

#[test]
fn uploads_are_encoded_anew_within_a_size() {
    let check = |file: &[u8], (width, height), media_type| {
        let cleaned = clean(file, MAX_INPUT_BYTES).unwrap();
        assert_eq!(cleaned.pixels, target(width, height));
        assert_eq!(cleaned.media_type, media_type);
        assert_eq!(
            inspect(&cleaned.bytes),
            Ok((cleaned.media_type, cleaned.pixels))
        );
        assert!(cleaned.bytes.len() <= MAX_INPUT_BYTES);
        cleaned.bytes
    };
    // A PNG stays lossless, and loses an alpha channel that is opaque everywhere.
    let small = drawn(300, 200);
    let kept = check(&png(&small), (300, 200), MediaType::Png);
    assert_eq!(pixels(&kept), small.to_rgb8());
    let opaque = png(&small.to_rgba8().into());
    let kept = check(&opaque, (300, 200), MediaType::Png);
    assert!(!image::load_from_memory(&kept).unwrap().color().has_alpha());

    let jpeg = encoded(&small, Format::Jpeg);
    check(&jpeg, (300, 200), MediaType::Jpeg);
    let sideways = [b"Exif\0\0", &exif_orientation(6)[..]].concat();
    let sideways = with_jpeg_segment(&jpeg, 0xE1, &sideways);
    check(&sideways, (200, 300), MediaType::Jpeg);
    let webp = encoded(&small, Format::Webp);
    check(&webp, (300, 200), MediaType::Jpeg);

    let large = png(&RgbImage::new(6000, 3000).into());
    check(&large, (4096, 2048), MediaType::Png);
    // Noise does not compress: it is too large as PNG, and later even as JPEG.
    let noise = |side| {
        let mut state = 1_u32;
        RgbaImage::from_fn(side, side, |_, _| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [.., r, g, b] = state.to_be_bytes();
            Rgba([r, g, b, 255])
        })
    };
    for (side, kept) in [(2600, 2600), (3600, 2700)] {
        let rgb = DynamicImage::from(noise(side)).into_rgb8();
        check(&png(&rgb.into()), (kept, kept), MediaType::Jpeg);
    }
    let mut translucent = noise(2600);
    for pixel in translucent.pixels_mut().step_by(2) {
        pixel[3] = 100;
    }
    check(&png(&translucent.into()), (2600, 2600), MediaType::Webp);

    let broken = clean(&large[..large.len() / 2], MAX_INPUT_BYTES);
    assert!(matches!(broken, Err(ImagingError::Unreadable { .. })));
}

#[test]
fn files_that_are_not_pictures_are_refused() {
    for bytes in [&b""[..], b"GIF89a", b"<svg/>"] {
        let error = inspect(bytes).unwrap_err();
        assert!(matches!(error, ImagingError::NotAnImage(_)), "{error}");
    }
    for bytes in [b"\x89PNG\r\n\x1a\n", &b"\xff\xd8\xff"[..]] {
        let error = inspect(bytes).unwrap_err();
        assert!(matches!(error, ImagingError::Unreadable { .. }), "{error}");
    }
}

#[test]
fn hostile_files_are_refused_quickly() {
    let opened = |name: &str, file: &[u8]| {
        let started = Instant::now();
        let rendered = rendered(file, target(1024, 1024), Format::Png);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(2), "{name} took {took:?}");
        assert_ne!(rendered, Err(ImagingError::Panicked), "{name}");
        rendered
    };
    for name in drawing::hostile_file_names() {
        let rendered = opened(&name, &drawing::hostile_file(&name).unwrap());
        assert!(rendered.is_err(), "{name}");
    }
    for name in drawing::heavy_file_names() {
        let rendered = opened(name, &drawing::hostile_file(name).unwrap());
        assert!(rendered.is_ok(), "{name}: {:?}", rendered.err());
    }
}

#[test]
fn unusual_but_valid_files_are_rendered() {
    let two_files_in_one = [&png_original(64, 64)[..], b"<script>alert(1)</script>"].concat();
    assert!(rendered(&two_files_in_one, target(64, 64), Format::Png).is_ok());

    let blank = encoded(&GrayImage::new(8000, 8000).into(), Format::Png);
    assert!(blank.len() < 100_000, "64 megapixels in a few bytes");
    assert!(rendered(&blank, target(1024, 1024), Format::Png).is_ok());
}

#[test]
fn a_wrong_byte_does_not_break_the_decoders() {
    // A linear congruential generator chooses offset and value, so each run tries the same bytes.
    let picture = drawn(64, 64);
    let mut state = 1_u32;
    let mut roll = |sides: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % sides
    };
    for format in FORMATS {
        let file = encoded(&picture, format);
        for _ in 0..300 {
            let mut broken = file.clone();
            // Mostly in the headers, because decoders branch on them.
            let among = [64, file.len()][roll(2)];
            let at = roll(among);
            broken[at] = roll(256).to_le_bytes()[0];
            let verdict = rendered(&broken, target(64, 64), Format::Jpeg);
            assert_ne!(verdict, Err(ImagingError::Panicked), "{format}, byte {at}");
        }
    }
}

/// It is known from the header alone, so a file that ends after its header gives the same number.
#[test]
fn memory_for_cleaning_is_known_from_the_header() {
    let memory = |file: &[u8]| memory_to_clean(file).unwrap();
    let png = png_original(2_000, 1_000);
    // Two megapixels are encoded at their own size.
    assert_eq!(memory(&png), 24_000_000);
    assert_eq!(memory(&png[..png.len() / 2]), 24_000_000);
    // Thirty-two megapixels are held beside the reduced image of at most 4,096 pixels a side.
    let needs = memory(&encoded(&drawn(8_000, 4_000), Format::Jpeg));
    assert!((150_000_000..210_000_000).contains(&needs), "{needs}");
    assert!(memory_to_clean(b"words").is_err());
}

/// Of most files the rows are resampled as they are decoded, so that the whole image is never in memory.
#[test]
fn rendering_takes_no_more_memory_than_announced() {
    let large = noisy(2_048, 2_048);
    for from in [Format::Png, Format::Jpeg] {
        let file = encoded(&large, from);
        for to in FORMATS {
            let recipe = recipe(target(1_024, 1_024), to);
            let announced = memory_to_render(&file, &recipe).unwrap();
            assert!(announced * 2 < memory(target(2_048, 2_048), recipe.target));
            let provenance = Provenance {
                model: "a-model".to_owned(),
                source: "a-job/0".to_owned(),
                synthetic: true,
            };
            let taken = peak_memory(|| drop(render(&file, &recipe, &provenance).unwrap()));
            // What the file takes was there before.
            let limit = announced - file.len();
            assert!(taken <= limit, "{from} to {to}: {taken} of {limit} bytes");
        }
    }
    // Pixels with alpha are decoded whole.
    let with_alpha = encoded(&DynamicImage::new_rgba8(2_048, 2_048), Format::Png);
    let recipe = recipe(target(1_024, 1_024), Format::Png);
    let any_file = memory(target(2_048, 2_048), recipe.target);
    assert_eq!(memory_to_render(&with_alpha, &recipe), Ok(any_file));
    assert!(memory_to_render(b"words", &recipe).is_err());
}

/// By how many bytes the memory of this process grows meanwhile. Each test is a process of its own.
fn peak_memory(work: impl FnOnce()) -> usize {
    let bytes = |name: &str| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let kibibytes = line.split_whitespace().nth(1).unwrap();
        kibibytes.parse::<usize>().unwrap() << 10
    };
    let before = bytes("VmRSS");
    // This resets the peak.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    work();
    bytes("VmHWM").saturating_sub(before)
}

/// A PNG with detail, so that codecs have something to do.
pub(super) fn png_original(width: u32, height: u32) -> Bytes {
    png(&drawn(width, height))
}

/// Bands of color.
fn drawn(width: u32, height: u32) -> DynamicImage {
    let samples = (0..width * height * 3).map(|i| (i >> 7 ^ i >> 15).to_le_bytes()[0]);
    RgbImage::from_raw(width, height, samples.collect())
        .unwrap()
        .into()
}

/// The same with the noise of a camera, so that its files are as large as those of photographs.
fn noisy(width: u32, height: u32) -> DynamicImage {
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24).to_le_bytes()[0] % 16
    };
    let mut pixels = drawn(width, height).into_rgb8();
    for value in pixels.iter_mut() {
        *value = value.saturating_add(noise());
    }
    pixels.into()
}

fn target(width: u32, height: u32) -> Pixels {
    Pixels { width, height }
}

fn png(picture: &DynamicImage) -> Bytes {
    let mut file = Vec::new();
    picture
        .write_to(&mut Cursor::new(&mut file), ImageFormat::Png)
        .unwrap();
    file.into()
}

fn pixels(file: &[u8]) -> RgbImage {
    image::load_from_memory(file).unwrap().into_rgb8()
}

fn assert_near<const N: usize>(got: [u8; N], expected: [u8; N], tolerance: u8) {
    let near = got
        .iter()
        .zip(expected)
        .all(|(a, b)| a.abs_diff(b) <= tolerance);
    assert!(near, "{got:?} is not near {expected:?}");
}

/// The smallest EXIF block: one entry, the orientation.
fn exif_orientation(value: u8) -> Vec<u8> {
    let header = *b"MM\0\x2a\0\0\0\x08\0\x01";
    let entry = [0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, value, 0, 0];
    [&header[..], &entry, &[0; 4]].concat()
}

fn with_jpeg_segment(jpeg: &[u8], marker: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len() + 2).unwrap().to_be_bytes();
    [&jpeg[..2], &[0xFF, marker], &length, data, &jpeg[2..]].concat()
}

/// A sequential JPEG with one scan for each channel.
fn jpeg_by_channel(picture: &RgbImage) -> Vec<u8> {
    let [width, height] = [picture.width(), picture.height()].map(|side| side.try_into().unwrap());
    let mut jpeg = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut jpeg, 90);
    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_2_2);
    encoder.set_optimized_huffman_tables(true);
    encoder
        .encode(picture, width, height, jpeg_encoder::ColorType::Rgb)
        .unwrap();
    jpeg
}

fn png_chunk(name: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut chunk = Vec::new();
    provenance::append_chunk(&mut chunk, name, data);
    chunk
}

//! JPEG files with unusual channels. They are read as libjpeg-turbo reads them, or refused.

use super::*;

/// Colors that change with each mistake about channels.
fn corners() -> RgbImage {
    RgbImage::from_fn(64, 48, |x, y| {
        Rgb(match (x < 32, y < 24) {
            (true, true) => [200, 40, 30],
            (false, true) => [20, 180, 60],
            (true, false) => [40, 60, 210],
            (false, false) => [230, 230, 120],
        })
    })
}

fn shows_corners(file: &[u8], what: &str) {
    let shown = pixels(&rendered(file, target(64, 48), Format::Png).unwrap().bytes);
    for (x, y) in [(8, 8), (56, 8), (8, 40), (56, 40)] {
        let (got, expected) = (shown.get_pixel(x, y).0, corners().get_pixel(x, y).0);
        let near = got.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 6);
        assert!(
            near,
            "{what}, at {x}, {y}: {got:?} is not near {expected:?}"
        );
    }
}

/// Without its JFIF header.
fn without_jfif(jpeg: &[u8]) -> Vec<u8> {
    assert_eq!(jpeg[2..4], [0xFF, 0xE0]);
    let length = usize::from(u16::from_be_bytes([jpeg[4], jpeg[5]]));
    [&jpeg[..2], &jpeg[4 + length..]].concat()
}

fn adobe(transform: u8) -> [u8; 12] {
    [b'A', b'd', b'o', b'b', b'e', 0, 100, 0, 0, 0, 0, transform]
}

/// The offset of the frame header.
fn frame(jpeg: &[u8]) -> usize {
    jpeg.windows(2).position(|two| two == [0xFF, 0xC0]).unwrap()
}

/// A JPEG whose channels are red, green and blue.
fn of_plain_channels(adobe_says: bool) -> Vec<u8> {
    let picture = corners();
    // Passed as YCbCr, so that the encoder converts nothing.
    let [r, g, b] = [0, 1, 2].map(|at| {
        picture
            .pixels()
            .map(|pixel| pixel.0[at])
            .collect::<Vec<u8>>()
    });
    let ycc: Vec<u8> = (0..r.len()).flat_map(|at| [r[at], g[at], b[at]]).collect();
    let mut jpeg = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut jpeg, 95);
    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_1_1);
    encoder
        .encode(&ycc, 64, 48, jpeg_encoder::ColorType::Ycbcr)
        .unwrap();
    let jpeg = without_jfif(&jpeg);
    if adobe_says {
        return with_jpeg_segment(&jpeg, 0xEE, &adobe(0));
    }
    let mut named = jpeg;
    let frame = frame(&named);
    let scan = named
        .windows(2)
        .position(|two| two == [0xFF, 0xDA])
        .unwrap();
    for (at, name) in b"RGB".iter().enumerate() {
        named[frame + 10 + at * 3] = *name;
        named[scan + 5 + at * 2] = *name;
    }
    named
}

#[test]
fn channels_have_the_meaning_of_libjpeg() {
    let jfif = encoded(&corners().into(), Format::Jpeg);
    shows_corners(&jfif, "JFIF");
    let bare = without_jfif(&jfif);
    shows_corners(&bare, "without JFIF or Adobe");
    shows_corners(&with_jpeg_segment(&bare, 0xEE, &adobe(1)), "Adobe 1");
    // JFIF means YCbCr, whatever an Adobe segment before or after it says.
    shows_corners(
        &with_jpeg_segment(&jfif, 0xEE, &adobe(0)),
        "JFIF and Adobe 0",
    );
    // One byte too short: then it is not an Adobe segment.
    shows_corners(
        &with_jpeg_segment(&bare, 0xEE, &adobe(0)[..11]),
        "short Adobe 0",
    );
    shows_corners(&of_plain_channels(true), "RGB by Adobe");
    shows_corners(&of_plain_channels(false), "RGB by its channels' names");
}

#[test]
fn a_scan_for_each_channel_is_read() {
    shows_corners(&jpeg_by_channel(&corners()), "by channel");
}

#[test]
fn every_sampling_is_read() {
    use jpeg_encoder::SamplingFactor as Factor;
    for factor in [
        Factor::F_1_1,
        Factor::F_2_1,
        Factor::F_1_2,
        Factor::F_2_2,
        Factor::F_4_1,
        Factor::F_4_2,
        Factor::F_1_4,
        Factor::F_2_4,
    ] {
        for progressive in [false, true] {
            let mut jpeg = Vec::new();
            let mut encoder = jpeg_encoder::Encoder::new(&mut jpeg, 95);
            encoder.set_sampling_factor(factor);
            encoder.set_progressive(progressive);
            encoder
                .encode(&corners(), 64, 48, jpeg_encoder::ColorType::Rgb)
                .unwrap();
            shows_corners(&jpeg, &format!("{factor:?}, progressive: {progressive}"));
        }
    }
}

#[test]
fn unusual_channels_are_refused_with_a_reason() {
    let jpeg = encoded(&corners().into(), Format::Jpeg);
    let frame = frame(&jpeg);
    let reason = |change: fn(&mut [u8])| {
        let mut changed = jpeg.clone();
        change(&mut changed[frame..]);
        match clean(&changed, MAX_INPUT_BYTES) {
            Err(ImagingError::Unreadable { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        reason(|frame| frame[9] = 2),
        "its number of channels is not one, three or four"
    );
    assert_eq!(reason(|frame| frame[11] = 0x52), "the file is damaged");
    assert!(reason(|frame| frame[4] = 12).contains("eight bits"));
    assert!(reason(|frame| frame[1] = 0xC9).contains("arithmetic coding"));
    assert!(reason(|frame| frame[1] = 0xC3).contains("lossless"));
}

/// Compares our decoder with libjpeg-turbo: no value may differ.
#[test]
fn pixels_are_those_of_libjpeg_turbo() {
    let picture = drawn(203, 117);
    for chroma in [Chroma::Quarter, Chroma::Full] {
        for progressive in [false, true] {
            let encoding = Encoding {
                chroma,
                progressive,
                ..Encoding::default()
            };
            let jpeg = encode::encode(&picture, Format::Jpeg, encoding).unwrap();
            let theirs = turbojpeg::decompress(&jpeg, turbojpeg::PixelFormat::RGB).unwrap();
            let ours = Original::open(&jpeg).unwrap().decode().unwrap().into_rgb8();
            let most = ours
                .iter()
                .zip(&theirs.pixels)
                .map(|(a, b)| a.abs_diff(*b))
                .max();
            assert!(most <= Some(3), "{chroma:?}, {progressive}: {most:?}");
        }
    }
}

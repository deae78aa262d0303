//! Files of which a part is missing. They are refused, so that nobody pays for half an image.

use super::*;

fn photo() -> RgbImage {
    RgbImage::from_fn(160, 120, |x, y| {
        Rgb([x + y / 3, y * 2, (x * y) >> 5].map(|level| level.to_le_bytes()[0]))
    })
}

fn refused(file: &[u8]) -> String {
    let uploaded = clean(file, MAX_INPUT_BYTES).unwrap_err();
    let rendered = rendered(file, target(64, 64), Format::Png).map(|_| ());
    match uploaded {
        ImagingError::Unreadable { reason, .. } => {
            assert!(!reason.contains("::") && !reason.contains('{'), "{reason}");
            assert!(rendered.is_err());
            reason.to_owned()
        }
        other => panic!("{other:?}"),
    }
}

/// A JPEG with a restart marker after each row of blocks.
fn restarting() -> Vec<u8> {
    let picture = photo();
    let mut jpeg = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut jpeg, 90);
    encoder.set_restart_interval(10);
    encoder
        .encode(&picture, 160, 120, jpeg_encoder::ColorType::Rgb)
        .unwrap();
    jpeg
}

fn progressive() -> Vec<u8> {
    let encoding = Encoding {
        progressive: true,
        ..Encoding::default()
    };
    encode::encode(&photo().into(), Format::Jpeg, encoding).unwrap()
}

/// The offsets of the coded data of each scan.
fn scans(jpeg: &[u8]) -> Vec<usize> {
    let all = jpeg.windows(2).enumerate();
    all.filter(|(_, two)| *two == [0xFF, 0xDA])
        .map(|(at, _)| at + 2 + usize::from(jpeg[at + 3]))
        .collect()
}

fn restarts(jpeg: &[u8]) -> Vec<usize> {
    let from = scans(jpeg)[0];
    let all = jpeg.windows(2).enumerate().skip(from);
    all.filter(|(_, two)| two[0] == 0xFF && (0xD0..0xD8).contains(&two[1]))
        .map(|(at, _)| at)
        .collect()
}

#[test]
fn a_jpeg_cut_before_its_end_marker_is_refused() {
    for jpeg in [
        encoded(&photo().into(), Format::Jpeg),
        restarting(),
        progressive(),
    ] {
        assert!(clean(&jpeg, MAX_INPUT_BYTES).is_ok());
        let first = scans(&jpeg)[0];
        for share in [10, 50, 90, 99] {
            let cut = first + (jpeg.len() - first) * share / 100;
            let ended = [&jpeg[..cut], &[0xFF, 0xD9]].concat();
            refused(&ended);
            refused(&jpeg[..cut]);
        }
    }
}

#[test]
fn bytes_missing_between_restarts_are_noticed() {
    let jpeg = restarting();
    let restarts = restarts(&jpeg);
    assert!(restarts.len() > 4);
    let (from, to) = (restarts[1], restarts[3]);
    for (from, to) in [(from + 20, from + 60), (from, to), (from, from + 2)] {
        refused(&[&jpeg[..from], &jpeg[to..]].concat());
    }
    // In another order.
    let mut swapped = jpeg.clone();
    swapped.swap(restarts[1] + 1, restarts[2] + 1);
    refused(&swapped);
}

#[test]
fn a_progressive_jpeg_that_lacks_scans_is_refused() {
    let jpeg = progressive();
    let starts: Vec<usize> = scans(&jpeg).into_iter().skip(1).collect();
    assert!(starts.len() > 3);
    for start in starts {
        // Before the Huffman tables of the next scan.
        let header = jpeg[..start]
            .windows(2)
            .rposition(|two| two == [0xFF, 0xC4])
            .unwrap();
        refused(&[&jpeg[..header], &[0xFF, 0xD9]].concat());
    }
}

/// One rule for all formats: a file without its end is cut off, even if all pixels are there.
#[test]
fn a_file_without_its_end_is_refused() {
    let picture = DynamicImage::from(photo());
    let jpeg = encoded(&picture, Format::Jpeg);
    assert_eq!(refused(&jpeg[..jpeg.len() - 2]), "the file is cut off");
    let png = png(&picture);
    assert_eq!(refused(&png[..png.len() - 12]), "the file is cut off");
}

#[test]
fn fill_bytes_before_the_end_are_allowed() {
    let jpeg = encoded(&photo().into(), Format::Jpeg);
    let (pixels, end) = jpeg.split_at(jpeg.len() - 2);
    let clean_one = clean(&jpeg, MAX_INPUT_BYTES).unwrap();
    for filling in [&[0; 16][..], &[0xFF; 5]] {
        assert_eq!(
            clean(&[pixels, filling, end].concat(), MAX_INPUT_BYTES).unwrap(),
            clean_one
        );
    }
    refused(&[pixels, &[0x5A; 16], end].concat());
}

/// Extra data may follow the compressed pixels of a PNG. The rendition is encoded anew, without it.
#[test]
fn data_after_the_pixels_of_a_png_is_dropped() {
    const SECRET: &[u8] = b"a message behind the pixels";
    let picture = photo();
    let png = png(&picture.clone().into());
    let idat = png.windows(4).position(|name| name == b"IDAT").unwrap();
    let length = u32::from_be_bytes(*png[idat - 4..].first_chunk().unwrap()) as usize;
    let packed = &png[idat + 4..idat + 4 + length];
    let (all, sum) = packed.split_at(length - 4);
    let wrong_sum = [all, &[sum[0] ^ 1, sum[1], sum[2], sum[3]]].concat();
    for (name, packed) in [
        ("a tail", [packed, SECRET].concat()),
        ("a wrong sum", wrong_sum),
        ("no sum", all.to_vec()),
    ] {
        let mut odd = png[..33].to_vec();
        odd.extend(png_chunk(*b"IDAT", &packed));
        odd.extend(png_chunk(*b"IEND", &[]));
        match rendered(&odd, target(160, 120), Format::Png) {
            Ok(rendition) => {
                assert!(
                    !rendition.bytes.windows(9).any(|part| part == &SECRET[..9]),
                    "{name}"
                );
                assert_eq!(pixels(&rendition.bytes), picture, "{name}");
                let repaired = rendition.bytes.windows(4).position(|part| part == b"IDAT");
                let tail = &rendition.bytes[repaired.unwrap()..];
                assert!(tail.windows(4).any(|part| part == b"IEND"));
            }
            Err(error) => assert!(matches!(error, ImagingError::Unreadable { .. }), "{name}"),
        }
    }
}

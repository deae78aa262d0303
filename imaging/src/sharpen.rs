//! Sharpens an image a little, if its job asks for this, because reduced images look softer.
//!
//! The method is an unsharp mask on brightness, so hues do not change. Each pixel moves away from the weighted mean of
//! itself and its neighbors, by 9/16 of the difference. It moves by at most [`MAX_CHANGE`], so that edges get no
//! visible halo.

use image::DynamicImage;

/// The part of the difference that is added, in sixteenths.
const AMOUNT_SIXTEENTHS: i16 = 9;
/// The most that a value changes, in levels.
const MAX_CHANGE: i16 = 12;

/// Sharpens eight-bit RGB or RGBA. Alpha does not change.
pub(super) fn sharpen(pixels: &mut DynamicImage) {
    let (width, height) = (pixels.width() as usize, pixels.height() as usize);
    match pixels {
        DynamicImage::ImageRgb8(rgb) => unsharp_mask::<3>(rgb, width, height),
        DynamicImage::ImageRgba8(rgba) => unsharp_mask::<4>(rgba, width, height),
        _ => {}
    }
}

/// Applies the mask to all pixels except those at the border, which lack neighbors.
fn unsharp_mask<const N: usize>(samples: &mut [u8], width: usize, height: usize) {
    if width < 3 || height < 3 {
        return;
    }
    let pixels = samples.as_chunks_mut::<N>().0;
    let levels: Vec<i16> = pixels.iter().map(brightness).collect();
    for y in 1..height - 1 {
        // The pixels change, but their brightness in `levels` does not. So each pixel is compared with its unchanged
        // neighbors.
        let row = |y: usize| &levels[y * width..(y + 1) * width];
        let (above, here, below) = (row(y - 1), row(y), row(y + 1));
        let out = &mut pixels[y * width..(y + 1) * width];
        for x in 1..width - 1 {
            let weighted = |row: &[i16]| row[x - 1] + 2 * row[x] + row[x + 1];
            let mean = (weighted(above) + 2 * weighted(here) + weighted(below) + 8) / 16;
            let change = ((here[x] - mean) * AMOUNT_SIXTEENTHS / 16).clamp(-MAX_CHANGE, MAX_CHANGE);
            for value in &mut out[x][..3] {
                let moved = (i16::from(*value) + change).clamp(0, 255);
                *value = u8::try_from(moved).expect("clamped");
            }
        }
    }
}

/// The brightness by the weights of ITU-R BT.601, as integers that add up to 256.
fn brightness<const N: usize>(pixel: &[u8; N]) -> i16 {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    i16::try_from((77 * r + 150 * g + 29 * b + 128) / 256).expect("at most 255")
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    #[test]
    fn edges_gain_contrast_and_no_halo() {
        let mut picture: DynamicImage = RgbImage::from_fn(32, 32, |x, _| {
            Rgb(if x < 16 {
                [80, 90, 100]
            } else {
                [180, 190, 200]
            })
        })
        .into();
        let before = picture.to_rgb8();
        sharpen(&mut picture);
        let after = picture.to_rgb8();
        let at = |picture: &RgbImage, x| picture.get_pixel(x, 9).0;
        assert!(at(&after, 15) < at(&before, 15), "darker before the edge");
        assert!(at(&after, 16) > at(&before, 16), "brighter after it");
        assert_eq!(at(&after, 8), at(&before, 8), "flat parts stay");
        for (was, is) in before.iter().zip(after.iter()) {
            assert!(was.abs_diff(*is) <= MAX_CHANGE.unsigned_abs().to_le_bytes()[0]);
        }
    }
}

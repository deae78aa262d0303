//! A little more contrast between neighbours, for whoever asks for it: what is made smaller looks softer.
//!
//! An unsharp mask on brightness, so colours do not shift: each pixel is moved away from the mean of its nine
//! neighbours, by less than it differs from it, and never by more than [`MOST`], so edges get no halo worth the name.

use image::DynamicImage;

/// How much of the difference is added, in sixteenths.
const AMOUNT: i16 = 9;
/// The most a value changes.
const MAX_CHANGE: i16 = 12;

/// Sharpens eight-bit RGB or RGBA. Alpha stays as it is.
pub(super) fn sharpen(pixels: &mut DynamicImage) {
    let (width, height) = (pixels.width() as usize, pixels.height() as usize);
    match pixels {
        DynamicImage::ImageRgb8(rgb) => mask::<3>(rgb, width, height),
        DynamicImage::ImageRgba8(rgba) => mask::<4>(rgba, width, height),
        _ => {}
    }
}

fn mask<const N: usize>(samples: &mut [u8], width: usize, height: usize) {
    if width < 3 || height < 3 {
        return;
    }
    let pixels = samples.as_chunks_mut::<N>().0;
    let brightness: Vec<i16> = pixels.iter().map(bright).collect();
    for y in 1..height - 1 {
        // Rows above, here and below, each with one pixel more on either side.
        let row = |y: usize| &brightness[y * width..(y + 1) * width];
        let (above, here, below) = (row(y - 1), row(y), row(y + 1));
        let out = &mut pixels[y * width..(y + 1) * width];
        for x in 1..width - 1 {
            let sides = |row: &[i16]| row[x - 1] + 2 * row[x] + row[x + 1];
            let mean = (sides(above) + 2 * sides(here) + sides(below) + 8) / 16;
            let by = ((here[x] - mean) * AMOUNT / 16).clamp(-MAX_CHANGE, MAX_CHANGE);
            for value in &mut out[x][..3] {
                let moved = (i16::from(*value) + by).clamp(0, 255);
                *value = u8::try_from(moved).expect("clamped");
            }
        }
    }
}

/// As BT.601 weighs colours: of integers that add up to 256.
fn bright<const N: usize>(pixel: &[u8; N]) -> i16 {
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

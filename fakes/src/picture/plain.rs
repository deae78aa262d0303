//! Flat pictures that cost next to nothing: for measuring others, not for looking at.

use super::{
    Format, TRUTH,
    canvas::{Canvas, Point, Rect, float},
    encode,
    lettering::{self, Weight},
};
use bytes::Bytes;
use image::RgbImage;
use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

type Drawn = HashMap<((u32, u32), Format, bool), Bytes>;

/// One picture for each size and type, made when it is first asked for.
static DRAWN: LazyLock<Mutex<Drawn>> = LazyLock::new(Mutex::default);

/// The flat picture in these pixels, with or without grain.
pub(super) fn draw(pixels: (u32, u32), format: Format, grain: bool) -> Bytes {
    // Held while drawing: whoever else wants the same picture had better wait than draw it again.
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = drawn.entry((pixels, format, grain)).or_insert_with(|| {
        let (width, height) = (float(pixels.0), float(pixels.1));
        let mut canvas = Canvas::new(pixels);
        let everything = Rect {
            left: 0.0,
            top: 0.0,
            width,
            height,
        };
        canvas.paint(everything, |_, _| ([214.0, 208.0, 196.0], 1.0));
        let margin = width.min(height) * 0.056;
        let room = width - margin * 2.0;
        let letters = 28.0_f32.min(28.0 * room / lettering::width(TRUTH, 28.0));
        let place = Point {
            x: margin,
            y: height - margin - letters,
        };
        canvas.write(TRUTH, place, letters, Weight::Regular, [60.0; 3], 1.0);
        let mut picture = canvas.into_image();
        if grain {
            roughen(&mut picture);
        }
        encode(&picture, format).into()
    });
    bytes.clone()
}

/// Adds what a sensor adds; the same each time.
fn roughen(picture: &mut RgbImage) {
    let mut dice = 1_u32;
    for value in picture.as_mut().iter_mut() {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let grain = u8::try_from(dice >> 29).expect("three bits");
        *value = value.saturating_add(grain);
    }
}

//! Images of one color that cost almost nothing. They are for measurements, not for people.

use bytes::Bytes;
use image::RgbImage;
use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use super::{
    canvas::{Canvas, Point, Rect, float},
    encode::{Format, encode},
    lettering::{self, NOTICE, Weight},
};

/// The images drawn so far, by width and height, format, and whether they have grain.
type ImageCache = HashMap<((u32, u32), Format, bool), Bytes>;

/// The images drawn so far. The lock is held while an image is drawn.
static IMAGE_CACHE: LazyLock<Mutex<ImageCache>> = LazyLock::new(Mutex::default);

/// An image of one color with this width and height, and the notice at its lower edge. It is drawn once for each size,
/// format and `grain`, then kept in memory.
///
/// With `grain` each value gets a little noise, so that the file is about as large as that of a photograph.
pub fn draw_flat(pixels: (u32, u32), format: Format, grain: bool) -> Bytes {
    // The lock is held meanwhile, because waiting is cheaper than drawing the same image twice.
    let mut cache = IMAGE_CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = cache.entry((pixels, format, grain)).or_insert_with(|| {
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
        let letter_height = 28.0_f32.min(28.0 * room / lettering::width(NOTICE, 28.0));
        let place = Point {
            x: margin,
            y: height - margin - letter_height,
        };
        canvas.write(
            NOTICE,
            place,
            letter_height,
            Weight::Regular,
            [60.0; 3],
            1.0,
        );
        let mut image = canvas.into_image();
        if grain {
            add_grain(&mut image);
        }
        encode(&image, format).into()
    });
    bytes.clone()
}

/// Adds noise by a linear congruential generator. The noise is the same each time.
fn add_grain(image: &mut RgbImage) {
    let mut state = 1_u32;
    for value in image.as_mut().iter_mut() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let grain = u8::try_from(state >> 29).expect("three bits");
        *value = value.saturating_add(grain);
    }
}

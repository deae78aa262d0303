//! Between the numbers a file holds and light.
//!
//! A value of sRGB is not an amount of light: the mean of black and white, 128, shines with a fifth of white's light. Whoever
//! takes means of such values, as resampling does, darkens fine detail. So pixels are resampled as light, in sixteen
//! bits, which is at least fourteen steps for each of the eight-bit values. There and back changes nothing. The curve is that
//! of IEC 61966-2-1.
//!
//! Lanczos weights are negative in places, so beside an edge there is less than nothing and more than white between one
//! direction and the other. Nothing is cut off there: an eighth of the range lies below black, and an eighth above white.

use std::sync::LazyLock;

/// Where black is, and how far it is from there to white.
const BLACK: u16 = 8_192;
const RANGE: u16 = 49_151;

/// Light of each value.
static LIGHT: LazyLock<[u16; 256]> = LazyLock::new(|| {
    std::array::from_fn(|value| {
        let value = u8::try_from(value).expect("below 256");
        BLACK + rounded(light_of(value) * f64::from(RANGE))
    })
});

/// The nearest value of each light.
static VALUE: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    (0..=u16::MAX)
        .map(|light| {
            let light = (f64::from(light) - f64::from(BLACK)) / f64::from(RANGE);
            let light = light.clamp(0.0, 1.0);
            let value = if light <= 0.003_130_8 {
                light * 12.92
            } else {
                1.055 * light.powf(1.0 / 2.4) - 0.055
            };
            rounded(value * 255.0).to_le_bytes()[0]
        })
        .collect()
});

/// From 0, nothing, to 1, all.
fn light_of(value: u8) -> f64 {
    let value = f64::from(value) / 255.0;
    if value <= 0.04045 {
        value / 12.92
    } else {
        ((value + 0.055) / 1.055).powf(2.4)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "both curves stay between nothing and all"
)]
fn rounded(value: f64) -> u16 {
    value.round() as u16
}

/// To light and back: the tables, looked up once for a whole picture.
pub(super) fn tables() -> (&'static [u16; 256], &'static [u8; 65_536]) {
    let values = VALUE.as_array().expect("one for each light");
    (&LIGHT, values)
}

/// Light of each value, for whoever weighs it by alpha.
#[expect(clippy::cast_possible_truncation, reason = "as exact as needed")]
pub(super) fn shares() -> [f32; 256] {
    std::array::from_fn(|value| light_of(u8::try_from(value).expect("below 256")) as f32)
}

/// The nearest value of such light; what lies beyond black or white is black or white.
pub(super) fn to_srgb(light: f32) -> u8 {
    let at = BLACK + rounded(f64::from(light.clamp(0.0, 1.0)) * f64::from(RANGE));
    VALUE[usize::from(at)]
}

/// The nearest of 256 shares.
pub(super) fn share(alpha: f32) -> u8 {
    rounded(f64::from(alpha.clamp(0.0, 1.0)) * 255.0).to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_changes_nothing() {
        let (light, values) = tables();
        let shares = shares();
        for byte in 0..=u8::MAX {
            assert_eq!(values[usize::from(light[usize::from(byte)])], byte);
            assert_eq!(to_srgb(shares[usize::from(byte)]), byte);
            assert_eq!(share(f32::from(byte) / 255.0), byte);
        }
        assert_eq!((light[0], light[255]), (BLACK, BLACK + RANGE));
    }

    /// A fifth of the light is the middle grey, and each light's value is the nearest one.
    #[test]
    fn values_are_the_nearest_ones() {
        let (light, value) = tables();
        assert_eq!(light[128] - BLACK, 10_610);
        for (at, pair) in light.windows(2).enumerate() {
            let [low, high] = [pair[0], pair[1]];
            assert!(high >= low + 14, "value {at} has few steps");
            let step = (low..=high).map(|light| value[usize::from(light)]);
            assert!(step.is_sorted(), "between {at} and the next");
        }
        assert_eq!((value[0], value[65_535]), (0, 255));
    }
}

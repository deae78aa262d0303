//! Converts between the values of sRGB and linear light, by the curve of IEC 61966-2-1.
//!
//! A value of sRGB is not proportional to light: 128, halfway between black and white, has a fifth of the light of
//! white. Resampling averages values, and averages of sRGB values make fine detail too dark. So pixels are resampled as
//! linear light with sixteen bits, which has at least fourteen steps for each of the 256 values. Converting to linear
//! light and back changes no value.
//!
//! Some Lanczos weights are negative. So after the first pass (horizontal) a value beside an edge may be below black or
//! above white, and the second pass (vertical) needs this value unclipped. So an eighth of the sixteen-bit range lies
//! below black, and an eighth above white.

use std::sync::LazyLock;

/// The sixteen-bit value of black.
const BLACK: u16 = 8_192;
/// The distance from black to white.
const RANGE: u16 = 49_151;

/// The sixteen-bit linear light of each sRGB value.
static LINEAR: LazyLock<[u16; 256]> = LazyLock::new(|| {
    std::array::from_fn(|value| {
        let value = u8::try_from(value).expect("below 256");
        BLACK + round_to_u16(to_linear(value) * f64::from(RANGE))
    })
});

/// The nearest sRGB value for each sixteen-bit linear light.
static ENCODED: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    (0..=u16::MAX)
        .map(|light| {
            let light = (f64::from(light) - f64::from(BLACK)) / f64::from(RANGE);
            let light = light.clamp(0.0, 1.0);
            let value = if light <= 0.003_130_8 {
                light * 12.92
            } else {
                1.055 * light.powf(1.0 / 2.4) - 0.055
            };
            round_to_u16(value * 255.0).to_le_bytes()[0]
        })
        .collect()
});

/// The linear light of an sRGB value, from 0 (black) to 1 (white).
fn to_linear(value: u8) -> f64 {
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
    reason = "both curves stay in the range of the type"
)]
fn round_to_u16(value: f64) -> u16 {
    value.round() as u16
}

/// The tables from sRGB values to linear light and back. Call this once for a whole image.
pub(super) fn tables() -> (&'static [u16; 256], &'static [u8; 65_536]) {
    let values = ENCODED.as_array().expect("the table has 65,536 entries");
    (&LINEAR, values)
}

/// The linear light of each value, from 0 to 1, for colors that are weighted by alpha.
#[expect(clippy::cast_possible_truncation, reason = "a float is exact enough")]
pub(super) fn linear_values() -> [f32; 256] {
    std::array::from_fn(|value| to_linear(u8::try_from(value).expect("below 256")) as f32)
}

/// The nearest sRGB value for linear light from 0 to 1. Light outside this range is clipped.
pub(super) fn to_srgb(light: f32) -> u8 {
    let at = BLACK + round_to_u16(f64::from(light.clamp(0.0, 1.0)) * f64::from(RANGE));
    ENCODED[usize::from(at)]
}

/// The nearest of 256 levels for an alpha from 0 to 1.
pub(super) fn to_alpha(alpha: f32) -> u8 {
    round_to_u16(f64::from(alpha.clamp(0.0, 1.0)) * 255.0).to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converting_there_and_back_changes_nothing() {
        let (light, values) = tables();
        let linear = linear_values();
        for byte in 0..=u8::MAX {
            assert_eq!(values[usize::from(light[usize::from(byte)])], byte);
            assert_eq!(to_srgb(linear[usize::from(byte)]), byte);
            assert_eq!(to_alpha(f32::from(byte) / 255.0), byte);
        }
        assert_eq!((light[0], light[255]), (BLACK, BLACK + RANGE));
    }

    /// The middle value has a fifth of the light, and each light gets the nearest value.
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

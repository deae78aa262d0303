//! Between the numbers a file holds and light.
//!
//! A value of sRGB is not an amount of light: the mean of black and white, 128, shines with a fifth of white's light. Whoever
//! takes means of such values, as resampling does, darkens fine detail. So pixels are resampled as light, in sixteen
//! bits, which is twenty steps for each of the eight-bit values where these are closest together. There and back changes
//! nothing. The curve is that of IEC 61966-2-1.

use std::sync::LazyLock;

/// Light of each value.
static LIGHT: LazyLock<[u16; 256]> = LazyLock::new(|| {
    std::array::from_fn(|value| {
        let value = f64::from(u16::try_from(value).expect("below 256")) / 255.0;
        let light = if value <= 0.04045 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        };
        rounded(light * 65_535.0)
    })
});

/// The nearest value of each light.
static VALUE: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    (0..=u16::MAX)
        .map(|light| {
            let light = f64::from(light) / 65_535.0;
            let value = if light <= 0.003_130_8 {
                light * 12.92
            } else {
                1.055 * light.powf(1.0 / 2.4) - 0.055
            };
            rounded(value * 255.0).to_le_bytes()[0]
        })
        .collect()
});

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

/// Alpha is a share, not a value of light.
pub(super) fn wide(alpha: u8) -> u16 {
    u16::from(alpha) * 257
}

/// The nearest share in eight bits.
pub(super) fn narrow(alpha: u16) -> u8 {
    let nearest = (u32::from(alpha) + 128) / 257;
    u8::try_from(nearest).expect("at most 255")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_changes_nothing() {
        let (light, value) = tables();
        for byte in 0..=u8::MAX {
            assert_eq!(value[usize::from(light[usize::from(byte)])], byte);
            assert_eq!(narrow(wide(byte)), byte);
        }
        assert_eq!((light[0], light[255]), (0, 65_535));
    }

    /// A fifth of the light is the middle grey, and each light's value is the nearest one.
    #[test]
    fn values_are_the_nearest_ones() {
        let (light, value) = tables();
        assert_eq!(light[128], 14_146);
        for (at, pair) in light.windows(2).enumerate() {
            let [low, high] = [pair[0], pair[1]];
            assert!(high > low + 15, "value {at} has few steps");
            let step = (low..=high).map(|light| value[usize::from(light)]);
            assert!(step.is_sorted(), "between {at} and the next");
        }
    }
}

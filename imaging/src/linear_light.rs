//! Converts between the values of sRGB and linear light, by the curve of IEC 61966-2-1.
//!
//! A value of sRGB is not proportional to light: 128, halfway between black and white, has a fifth of the light of
//! white. Resampling averages values, and averages of sRGB values make fine detail too dark. So pixels are resampled as
//! linear light, in floats. Floats also hold what is below black or above white. Such light arises beside an edge,
//! because some Lanczos weights are negative, and the second pass of the resampler needs it unclipped.

use std::sync::LazyLock;

/// The number of entries in the table of values. At its steepest part, near black, the curve of sRGB has twenty of
/// these steps for each value.
const STEPS: usize = 65_536;

/// Converts the 256 values of a channel to what the resampler averages, and back.
///
/// A *value* is a byte of a channel. A *share* is what is averaged, a number from 0 to 1. A *step* is a share that is
/// rounded to one of 65,536 numbers.
pub(super) struct Curve {
    /// Up to this value the share is the value times `slope`. Above it the polynomial of the value gives the share.
    straight_until: f32,
    slope: f32,
    polynomial: [f32; 5],
    /// The nearest value of each step.
    values: Box<[u8; STEPS]>,
}

/// The curve of sRGB. The shares are shares of the light of white.
///
/// The polynomial was fitted to the curve at the 245 values above 10, so that its largest error, as a part of the distance
/// between two values, is as small as possible. A share lies by at most an eighteenth of that distance beside the exact
/// one. Vector instructions calculate many shares at a time, which takes less time than to look up each in a table.
pub(super) static SRGB: LazyLock<Curve> = LazyLock::new(|| Curve {
    straight_until: 10.0,
    slope: 1.0 / (255.0 * 12.92),
    polynomial: [
        1.078_777_1e-3,
        1.083_776_4e-4,
        8.693_783_5e-6,
        3.111_424_7e-8,
        -2.600_255_8e-11,
    ],
    values: values(to_encoded),
});

/// A straight line. With it the values of a file are averaged as they are, and so is alpha.
pub(super) static STRAIGHT: LazyLock<Curve> = LazyLock::new(|| Curve {
    straight_until: 255.0,
    slope: 1.0 / 255.0,
    polynomial: [0.0; 5],
    values: values(|value| value),
});

impl Curve {
    /// The share of a value, from 0 to 1.
    #[expect(
        clippy::inline_always,
        reason = "the resampler's loops are vectorized only if they contain this function"
    )]
    #[inline(always)]
    pub(super) fn share(&self, value: u8) -> f32 {
        let value = f32::from(value);
        let bent = (self.polynomial.iter().rev()).fold(0.0, |sum, factor| sum * value + factor);
        if value <= self.straight_until {
            value * self.slope
        } else {
            bent
        }
    }

    /// The nearest value for a share that was rounded by [`step`].
    #[inline]
    pub(super) fn value(&self, step: u16) -> u8 {
        self.values[usize::from(step)]
    }
}

/// The nearest value of each step. `encode` gives the value of a share, both from 0 to 1.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the curves stay between 0 and 1"
)]
fn values(encode: fn(f64) -> f64) -> Box<[u8; STEPS]> {
    let values = vec![0; STEPS].into_boxed_slice();
    let mut values: Box<[u8; STEPS]> = values.try_into().expect("the length is the same");
    for (value, step) in values.iter_mut().zip(0_u16..=u16::MAX) {
        let share = f64::from(step) / f64::from(u16::MAX);
        *value = (encode(share) * 255.0).round() as u8;
    }
    values
}

/// The nearest of 65,536 steps from 0 to 1. Shares below 0 and above 1 are clipped.
#[inline(always)] // The resampler's loops are vectorized only if they contain this function.
pub(super) fn step(share: f32) -> u16 {
    // 2^23. A float of this size has no bits for fractions. So adding 2^23 rounds, and the lowest bits of the sum are
    // the integer. This is faster than a conversion.
    const ROUND: f32 = 8_388_608.0;
    let bits = (share.clamp(0.0, 1.0) * f32::from(u16::MAX) + ROUND).to_bits();
    (bits & 0xFFFF) as u16
}

/// The value of sRGB for linear light. Both are from 0 (black) to 1 (white).
fn to_encoded(light: f64) -> f64 {
    if light <= 0.003_130_8 {
        light * 12.92
    } else {
        1.055 * light.powf(1.0 / 2.4) - 0.055
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The linear light of a value of sRGB. Both are from 0 (black) to 1 (white).
    fn to_linear(value: f64) -> f64 {
        if value <= 0.04045 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        }
    }

    #[test]
    fn converting_there_and_back_changes_nothing() {
        for curve in [&SRGB, &STRAIGHT] {
            for value in 0..=u8::MAX {
                assert_eq!(curve.value(step(curve.share(value))), value);
            }
            let ends = [curve.share(0), curve.share(255)];
            assert_eq!(ends.map(f32::to_bits), [0.0_f32, 1.0].map(f32::to_bits));
            assert_eq!([-0.2, 1.2].map(|share| curve.value(step(share))), [0, 255]);
        }
    }

    #[test]
    fn shares_are_nearly_exact() {
        let light = |value: f64| to_linear(value / 255.0);
        for value in 0..=u8::MAX {
            let (share, value) = (f64::from(SRGB.share(value)), f64::from(value));
            let distance = (light(value + 1.0) - light(value - 1.0)) / 2.0;
            let error = (share - light(value)).abs() / distance;
            assert!(error < 1.0 / 18.0, "{value}: {error}");
        }
    }

    /// The middle value has a fifth of the light. Each light gets the nearest value, to a tenth of a level.
    #[test]
    fn values_are_the_nearest_ones() {
        assert!((SRGB.share(128) - 0.2159).abs() < 0.0003);
        for value in 0..u8::MAX {
            let middle = |part: f64| {
                let value = (f64::from(value) + part) / 255.0;
                #[expect(clippy::cast_possible_truncation, reason = "a float is exact enough")]
                let light = to_linear(value) as f32;
                SRGB.value(step(light))
            };
            assert_eq!((middle(0.45), middle(0.55)), (value, value + 1));
        }
    }
}

//! Bringing pixels to sRGB, the colour space every screen assumes when a file names none. Ours name it.

use image::DynamicImage;
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};

/// Converts eight-bit pixels from the space `profile` (ICC) describes, and says whether that changed them.
///
/// A profile that cannot be read, or is not one of RGB, changes nothing: that is what viewers do, too.
pub(super) fn to_srgb(pixels: &mut DynamicImage, profile: &[u8]) -> bool {
    let Ok(profile) = ColorProfile::new_from_slice(profile) else {
        return false;
    };
    if profile.color_space != DataColorSpace::Rgb || is_srgb(&profile) {
        return false;
    }
    let converted = match pixels {
        DynamicImage::ImageRgb8(rgb) => convert(&profile, Layout::Rgb, rgb),
        DynamicImage::ImageRgba8(rgba) => convert(&profile, Layout::Rgba, rgba),
        _ => None,
    };
    converted.is_some()
}

/// Whether the profile is sRGB under one of its many names: it moves no colour of a coarse cube by more than a level.
/// Such pictures keep their exact pixels.
fn is_srgb(profile: &ColorProfile) -> bool {
    const LEVELS: [u8; 5] = [0, 64, 128, 192, 255];
    let cube = || {
        LEVELS
            .iter()
            .flat_map(|r| LEVELS.iter().flat_map(move |g| LEVELS.map(|b| [*r, *g, b])))
            .flatten()
    };
    let mut moved: Vec<u8> = cube().collect();
    convert(profile, Layout::Rgb, &mut moved).is_some()
        && cube().zip(&moved).all(|(a, b)| a.abs_diff(*b) <= 1)
}

/// `None`, and nothing changed, if the profile describes no usable conversion.
fn convert(profile: &ColorProfile, layout: Layout, samples: &mut [u8]) -> Option<()> {
    let source = samples.to_vec();
    profile
        .create_transform_8bit(
            layout,
            &ColorProfile::new_srgb(),
            layout,
            TransformOptions::default(),
        )
        .ok()?
        .transform(&source, samples)
        .ok()
}

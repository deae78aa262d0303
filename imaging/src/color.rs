//! Bringing pixels to sRGB, the colour space every screen assumes when a file names none. Ours name it.

use image::DynamicImage;
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};

/// Converts eight-bit pixels from the space `profile` (ICC) describes, and says whether that changed them.
///
/// A profile that cannot be read, or is not one of these pixels' colour model, changes nothing: that is what viewers do,
/// too. So a CMYK picture's profile is left alone; its decoder has made plain RGB of it.
pub(super) fn to_srgb(pixels: &mut DynamicImage, profile: &[u8]) -> bool {
    let Ok(profile) = ColorProfile::new_from_slice(profile) else {
        return false;
    };
    match profile.color_space {
        DataColorSpace::Gray => return gray_to_srgb(pixels, &profile),
        DataColorSpace::Rgb if !is_srgb(&profile) => {}
        _ => return false,
    }
    let converted = match pixels {
        DynamicImage::ImageRgb8(rgb) => convert(&profile, Layout::Rgb, rgb),
        DynamicImage::ImageRgba8(rgba) => convert(&profile, Layout::Rgba, rgba),
        _ => None,
    };
    converted.is_some()
}

/// A gray profile says what each of 256 levels means; it is heeded if the picture is gray.
fn gray_to_srgb(pixels: &mut DynamicImage, profile: &ColorProfile) -> bool {
    let levels: Vec<u8> = (0..=255).collect();
    let mut meaning = vec![0; 256 * 3];
    let transform = profile.create_transform_8bit(
        Layout::Gray,
        &ColorProfile::new_srgb(),
        Layout::Rgb,
        TransformOptions::default(),
    );
    let Ok(()) = transform.and_then(|transform| transform.transform(&levels, &mut meaning)) else {
        return false;
    };
    let meaning = meaning.as_chunks::<3>().0;
    match pixels {
        DynamicImage::ImageRgb8(rgb) => replace_gray::<3>(rgb, meaning),
        DynamicImage::ImageRgba8(rgba) => replace_gray::<4>(rgba, meaning),
        _ => false,
    }
}

fn replace_gray<const CHANNELS: usize>(samples: &mut [u8], meaning: &[[u8; 3]]) -> bool {
    let pixels = samples.as_chunks_mut::<CHANNELS>().0;
    let is_gray = pixels.iter().all(|p| p[0] == p[1] && p[1] == p[2]);
    if is_gray {
        for pixel in pixels {
            let level = usize::from(pixel[0]);
            pixel[..3].copy_from_slice(&meaning[level]);
        }
    }
    is_gray
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

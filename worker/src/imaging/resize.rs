//! Bringing pixels to the exact size: cover the target, crop around the centre, Lanczos3.

use fast_image_resize::{
    PixelTrait, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::{U8x3, U8x4},
};
use image::{DynamicImage, RgbImage, RgbaImage};

use common::generation::image::Pixels;

use super::ImagingError;

/// How far a picture may be off, in percent: in shape, and in size when it is smaller than its target.
///
/// Models return 1344 for 1376, or 1280×896 for 5:4. More than that is not the picture that was asked for.
const TOLERANCE: u64 = 5;

/// Whether a picture of this size may become the target at all.
pub(super) fn check(width: u32, height: u32, target: Pixels) -> Result<(), ImagingError> {
    let [w, h] = [width, height].map(u64::from);
    let [tw, th] = [target.width, target.height].map(u64::from);
    let within = |larger: u64, smaller: u64| larger * 100 <= smaller * (100 + TOLERANCE);

    // The quotient of the two aspect ratios, kept as two products.
    let (ours, theirs) = (w * th, h * tw);
    if !within(ours.max(theirs), ours.min(theirs)) {
        return Err(ImagingError::WrongShape {
            width,
            height,
            target,
        });
    }
    if !within(tw, w) || !within(th, h) {
        return Err(ImagingError::TooSmall {
            width,
            height,
            target,
        });
    }
    Ok(())
}

/// Brings eight-bit RGB or RGBA to `target`. An alpha channel that hides nothing is dropped on the way.
pub(super) fn cover(pixels: DynamicImage, target: Pixels) -> Result<DynamicImage, ImagingError> {
    let translucent = is_translucent(&pixels);
    let resized = if (pixels.width(), pixels.height()) == (target.width, target.height) {
        pixels
    } else {
        resample(&pixels, translucent, target).ok_or(ImagingError::BrokeDown)?
    };
    Ok(if translucent {
        resized
    } else {
        resized.into_rgb8().into()
    })
}

fn is_translucent(pixels: &DynamicImage) -> bool {
    pixels.as_rgba8().is_some_and(|rgba| {
        rgba.as_chunks()
            .0
            .iter()
            .any(|&[_, _, _, alpha]| alpha < 255)
    })
}

/// `None` only if the buffers disagree with their sizes, which [`check`] and the decoder rule out.
fn resample(pixels: &DynamicImage, translucent: bool, target: Pixels) -> Option<DynamicImage> {
    // Colours are weighed by their alpha only where there is some: it costs a pass, and would round opaque ones.
    let options = ResizeOptions::new()
        .fit_into_destination(Some((0.5, 0.5)))
        .use_alpha(translucent);
    let Pixels { width, height } = target;
    match pixels {
        DynamicImage::ImageRgba8(_) => {
            let bytes = resample_as::<U8x4>(pixels, target, &options)?;
            RgbaImage::from_raw(width, height, bytes).map(Into::into)
        }
        _ => {
            let bytes = resample_as::<U8x3>(pixels, target, &options)?;
            RgbImage::from_raw(width, height, bytes).map(Into::into)
        }
    }
}

/// The typed entrance: the untyped one is compiled here for all fifteen pixel types, which takes minutes.
fn resample_as<P: PixelTrait>(
    pixels: &DynamicImage,
    target: Pixels,
    options: &ResizeOptions,
) -> Option<Vec<u8>> {
    let Pixels { width, height } = target;
    let source =
        TypedImageRef::<P>::from_buffer(pixels.width(), pixels.height(), pixels.as_bytes()).ok()?;
    let mut bytes = vec![0; width as usize * height as usize * P::size()];
    let mut resized = TypedImage::<P>::from_buffer(width, height, &mut bytes).ok()?;
    Resizer::new()
        .resize_typed(&source, &mut resized, options)
        .ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_nearly_right_is_brought_to_size() {
        fn check(size: (u32, u32), target: (u32, u32), expected: &str) {
            let target = Pixels {
                width: target.0,
                height: target.1,
            };
            let verdict = match super::check(size.0, size.1, target) {
                Ok(()) => "ok",
                Err(ImagingError::WrongShape { .. }) => "shape",
                Err(ImagingError::TooSmall { .. }) => "small",
                Err(other) => panic!("{other}"),
            };
            assert_eq!(verdict, expected, "{size:?} to {target}");
        }
        check((1024, 1024), (1024, 1024), "ok");
        check((4096, 4096), (1024, 1024), "ok");
        check((1344, 768), (1376, 768), "ok"); // what Gemini 2.5 returns for 16:9
        check((1050, 1000), (1000, 1000), "ok");
        check((1051, 1000), (1000, 1000), "shape");
        check((1000, 1051), (1000, 1000), "shape");
        check((1376, 768), (768, 1376), "shape");
        check((1000, 1000), (1050, 1050), "ok");
        check((1000, 1000), (1051, 1051), "small");
        check((1024, 1024), (2048, 2048), "small");
        check((1, 1), (1024, 1024), "small");
        check((1024, 1024), (0, 1024), "shape");
    }
}

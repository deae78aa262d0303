//! Resampling: Lanczos with three lobes, as light ([`light`](super::light)), colours weighed by their alpha.

use fast_image_resize::{
    PixelTrait, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::{F32x4, U8x3, U8x4, U16x3},
};
use image::{DynamicImage, Rgb, RgbImage, Rgba, RgbaImage, imageops};

use super::ImagingError;
use super::fit::Plan;
use super::light;

/// What is averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Space {
    /// Light, as it would mix before an eye.
    #[default]
    Light,
    /// The numbers in the file. Three times as fast, and wrong in fine detail: for comparisons with others that do so.
    Values,
}

/// Carries out a plan on eight-bit RGB or RGBA. An alpha channel that hides nothing is dropped on the way.
pub(super) fn carry_out(
    plan: Plan,
    pixels: DynamicImage,
    space: Space,
) -> Result<DynamicImage, ImagingError> {
    let pixels = without_idle_alpha(pixels);
    let scaled = if (pixels.width(), pixels.height()) == (plan.scaled.width, plan.scaled.height) {
        pixels
    } else {
        resample(&pixels, plan, space).ok_or(ImagingError::BrokeDown)?
    };
    Ok(if plan.scaled == plan.target {
        scaled
    } else {
        pad(&scaled, plan)
    })
}

fn without_idle_alpha(pixels: DynamicImage) -> DynamicImage {
    match pixels {
        DynamicImage::ImageRgba8(rgba)
            if rgba
                .as_chunks::<4>()
                .0
                .iter()
                .all(|&[.., alpha]| alpha == 255) =>
        {
            DynamicImage::from(rgba).into_rgb8().into()
        }
        other => other,
    }
}

/// Puts a picture into the middle of its target: on white, or on nothing where it shows what is behind it.
fn pad(scaled: &DynamicImage, plan: Plan) -> DynamicImage {
    let (width, height) = (plan.target.width, plan.target.height);
    let x = i64::from((width - plan.scaled.width) / 2);
    let y = i64::from((height - plan.scaled.height) / 2);
    match scaled {
        DynamicImage::ImageRgba8(rgba) => {
            let mut padded = RgbaImage::from_pixel(width, height, Rgba([255, 255, 255, 0]));
            imageops::replace(&mut padded, rgba, x, y);
            padded.into()
        }
        other => {
            let mut padded = RgbImage::from_pixel(width, height, Rgb([255; 3]));
            imageops::replace(&mut padded, &other.to_rgb8(), x, y);
            padded.into()
        }
    }
}

/// `None` only if the buffers disagree with their sizes, which the plan and the decoder rule out.
pub(super) fn resample(pixels: &DynamicImage, plan: Plan, space: Space) -> Option<DynamicImage> {
    let (width, height) = (plan.scaled.width, plan.scaled.height);
    match (pixels, space) {
        // Few pictures are translucent, and weighed by little alpha sixteen bits would be too few.
        (DynamicImage::ImageRgba8(rgba), Space::Light) => {
            let shares = light::shares();
            let shine = |&[r, g, b, a]: &[u8; 4]| {
                let [r, g, b] = [r, g, b].map(|value| shares[usize::from(value)]);
                F32x4::new([r, g, b, f32::from(a) / 255.0])
            };
            let lit: Vec<F32x4> = rgba.as_chunks().0.iter().map(shine).collect();
            let resized = convolve(&lit, pixels, plan, true)?;
            let bytes = resized.pixels().iter().flat_map(|pixel| {
                let [r, g, b, a] = pixel.0;
                let [r, g, b] = [r, g, b].map(light::value);
                [r, g, b, light::share(a)]
            });
            RgbaImage::from_raw(width, height, bytes.collect()).map(Into::into)
        }
        (DynamicImage::ImageRgb8(rgb), Space::Light) => {
            let (to_light, to_value) = light::tables();
            let shine = |rgb: &[u8; 3]| U16x3::new(rgb.map(|value| to_light[usize::from(value)]));
            let lit: Vec<U16x3> = rgb.as_chunks().0.iter().map(shine).collect();
            let resized = convolve(&lit, pixels, plan, false)?;
            let mut bytes = vec![0; width as usize * height as usize * 3];
            for (to, pixel) in bytes
                .as_chunks_mut::<3>()
                .0
                .iter_mut()
                .zip(resized.pixels())
            {
                *to = pixel.0.map(|light| to_value[usize::from(light)]);
            }
            RgbImage::from_raw(width, height, bytes).map(Into::into)
        }
        (DynamicImage::ImageRgba8(_), Space::Values) => {
            let source = TypedImageRef::<U8x4>::from_buffer(
                pixels.width(),
                pixels.height(),
                pixels.as_bytes(),
            );
            let mut bytes = vec![0; width as usize * height as usize * 4];
            let mut resized = TypedImage::from_buffer(width, height, &mut bytes).ok()?;
            Resizer::new()
                .resize_typed(&source.ok()?, &mut resized, &options(plan, true))
                .ok()?;
            RgbaImage::from_raw(width, height, bytes).map(Into::into)
        }
        _ => {
            let source = TypedImageRef::<U8x3>::from_buffer(
                pixels.width(),
                pixels.height(),
                pixels.as_bytes(),
            );
            let mut bytes = vec![0; width as usize * height as usize * 3];
            let mut resized = TypedImage::from_buffer(width, height, &mut bytes).ok()?;
            Resizer::new()
                .resize_typed(&source.ok()?, &mut resized, &options(plan, false))
                .ok()?;
            RgbImage::from_raw(width, height, bytes).map(Into::into)
        }
    }
}

/// The typed entrance: the untyped one is compiled here for all fifteen pixel types, which takes minutes.
fn convolve<P: PixelTrait>(
    lit: &[P],
    of: &DynamicImage,
    plan: Plan,
    use_alpha: bool,
) -> Option<TypedImage<'static, P>> {
    let source = TypedImageRef::new(of.width(), of.height(), lit).ok()?;
    let mut resized = TypedImage::new(plan.scaled.width, plan.scaled.height);
    Resizer::new()
        .resize_typed(&source, &mut resized, &options(plan, use_alpha))
        .ok()?;
    Some(resized)
}

/// Colours are weighed by their alpha only where there is some: it costs a pass, and would round opaque ones.
fn options(plan: Plan, use_alpha: bool) -> ResizeOptions {
    let options = ResizeOptions::new().use_alpha(use_alpha);
    if plan.crops {
        options.fit_into_destination(Some((0.5, 0.5)))
    } else {
        options
    }
}

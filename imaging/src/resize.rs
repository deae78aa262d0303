//! Resizes pixels by a plan: crops, resamples, and pads them.

use image::{DynamicImage, Rgb, RgbImage, Rgba, RgbaImage, imageops};

use domain::generation::image::Pixels;

use super::ImagingError;
use super::filter::Filter;
use super::fit::Plan;
use super::linear_light::{self, Curve};
use super::resample::{Part, Resampler};

/// Which values are averaged when pixels are resampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResampleSpace {
    /// Linear light, which is averaged in the way that light mixes in the eye.
    #[default]
    Linear,
    /// The encoded values of sRGB. Fine detail becomes too dark. This is for comparison with programs that work like
    /// this.
    Encoded,
}

impl ResampleSpace {
    fn curve(self) -> &'static Curve {
        match self {
            Self::Linear => &linear_light::SRGB,
            Self::Encoded => &linear_light::STRAIGHT,
        }
    }
}

/// Resizes eight-bit RGB or RGBA pixels by a plan. An alpha channel that is opaque everywhere is dropped.
pub(super) fn resize(
    plan: Plan,
    pixels: DynamicImage,
    space: ResampleSpace,
) -> Result<DynamicImage, ImagingError> {
    let pixels = without_opaque_alpha(pixels);
    let scaled = if (pixels.width(), pixels.height()) == (plan.scaled.width, plan.scaled.height) {
        pixels
    } else {
        resample(&pixels, plan, space, Filter::Lanczos).ok_or(ImagingError::Panicked)?
    };
    Ok(pad(scaled, plan))
}

/// Drops an alpha channel that is opaque everywhere. To weight colors by it would change nothing that can be seen, but
/// costs a pass and rounds the colors.
fn without_opaque_alpha(pixels: DynamicImage) -> DynamicImage {
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

/// Puts an image into the middle of its target, if it is smaller. The rest of the target is white, or transparent if
/// the image has alpha.
pub(super) fn pad(scaled: DynamicImage, plan: Plan) -> DynamicImage {
    if plan.scaled == plan.target {
        return scaled;
    }
    let (width, height) = (plan.target.width, plan.target.height);
    let x = i64::from((width - plan.scaled.width) / 2);
    let y = i64::from((height - plan.scaled.height) / 2);
    match scaled {
        DynamicImage::ImageRgba8(rgba) => {
            let mut padded = RgbaImage::from_pixel(width, height, Rgba([255, 255, 255, 0]));
            imageops::replace(&mut padded, &rgba, x, y);
            padded.into()
        }
        other => {
            let mut padded = RgbImage::from_pixel(width, height, Rgb([255; 3]));
            imageops::replace(&mut padded, &other.into_rgb8(), x, y);
            padded.into()
        }
    }
}

/// Resamples to [`Plan::scaled`]. Returns `None` if the number of samples does not match the size, which does not
/// happen with pixels of our decoders.
pub(super) fn resample(
    pixels: &DynamicImage,
    plan: Plan,
    space: ResampleSpace,
    filter: Filter,
) -> Option<DynamicImage> {
    let source = Pixels {
        width: pixels.width(),
        height: pixels.height(),
    };
    if let DynamicImage::ImageRgba8(rgba) = pixels {
        let mut resampler = resampler::<4>(source, plan, space, filter);
        for row in rgba.chunks_exact(source.width as usize * 4) {
            resampler.add(row);
        }
        return RgbaImage::from_raw(plan.scaled.width, plan.scaled.height, resampler.finish()?)
            .map(Into::into);
    }
    let mut resampler = resampler::<3>(source, plan, space, filter);
    for row in pixels.as_bytes().chunks_exact(source.width as usize * 3) {
        resampler.add(row);
    }
    into_rgb(plan, resampler)
}

/// The resampler for an image of this size. `N` is the number of channels.
pub(super) fn resampler<const N: usize>(
    source: Pixels,
    plan: Plan,
    space: ResampleSpace,
    filter: Filter,
) -> Resampler<N> {
    Resampler::new(
        filter,
        source,
        visible_part(source, plan),
        plan.scaled,
        space.curve(),
    )
}

/// The result of a resampler as an image. Returns `None` if rows of the source are missing.
pub(super) fn into_rgb(plan: Plan, resampler: Resampler<3>) -> Option<DynamicImage> {
    RgbImage::from_raw(plan.scaled.width, plan.scaled.height, resampler.finish()?).map(Into::into)
}

/// The part of an image that is left after cropping around its center, or the whole image if the plan does not crop.
fn visible_part(source: Pixels, plan: Plan) -> Part {
    let [width, height] = [source.width, source.height].map(f64::from);
    let shape = f64::from(plan.scaled.width) / f64::from(plan.scaled.height);
    let (visible_width, visible_height) = match plan.crops {
        true if width / height > shape => (height * shape, height),
        true => (width, width / shape),
        false => (width, height),
    };
    Part {
        across: ((width - visible_width) / 2.0, visible_width),
        down: ((height - visible_height) / 2.0, visible_height),
    }
}

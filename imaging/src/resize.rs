//! Resamples pixels by a Lanczos filter with three lobes, in linear light (see [`linear_light`]). Colors are weighted
//! by their alpha.

use fast_image_resize::{
    CropBox, PixelTrait, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::{F32x4, U8x3, U8x4, U16x3},
};
use image::{DynamicImage, Rgb, RgbImage, Rgba, RgbaImage, imageops};

use domain::generation::image::Pixels;

use super::ImagingError;
use super::fit::Plan;
use super::linear_light;

/// How far the filter reaches on each side, in pixels of the smaller of the two images.
const LOBES: f64 = 3.0;
/// The approximate number of bytes of linear light in a band.
const BAND_BYTES: usize = 4 << 20;

/// Which values are averaged when pixels are resampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResampleSpace {
    /// Linear light, which is averaged in the way that light mixes in the eye.
    #[default]
    Linear,
    /// The encoded values of sRGB. This is three times as fast, but fine detail becomes too dark. It is used for
    /// thumbnails, and for comparison with programs that work like this.
    Encoded,
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
        resample(&pixels, plan, space).ok_or(ImagingError::Panicked)?
    };
    Ok(if plan.scaled == plan.target {
        scaled
    } else {
        pad(&scaled, plan)
    })
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

/// Puts an image into the middle of its target. The rest of the target is white, or transparent if the image has alpha.
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

/// Resamples to [`Plan::scaled`]. Returns `None` if the length of a buffer does not match its size, which does not
/// happen with pixels of our decoders.
pub(super) fn resample(
    pixels: &DynamicImage,
    plan: Plan,
    space: ResampleSpace,
) -> Option<DynamicImage> {
    let (width, height) = (plan.scaled.width, plan.scaled.height);
    match (pixels, space) {
        // Floats are used because sixteen bits are too few after multiplying with a small alpha. They are slower, but
        // few images are translucent.
        (DynamicImage::ImageRgba8(rgba), ResampleSpace::Linear) => {
            let linear = linear_light::linear_values();
            let to_linear = |&[r, g, b, a]: &[u8; 4]| {
                let [r, g, b] = [r, g, b].map(|value| linear[usize::from(value)]);
                F32x4::new([r, g, b, f32::from(a) / 255.0])
            };
            let to_encoded = |pixel: &F32x4| {
                let [r, g, b, a] = pixel.0;
                let [r, g, b] = [r, g, b].map(linear_light::to_srgb);
                [r, g, b, linear_light::to_alpha(a)]
            };
            let bytes = resample_in_strips(
                rgba.as_chunks().0,
                rgba.width(),
                plan,
                true,
                to_linear,
                to_encoded,
            )?;
            RgbaImage::from_raw(width, height, bytes).map(Into::into)
        }
        (DynamicImage::ImageRgb8(rgb), ResampleSpace::Linear) => {
            let (linear, encoded) = linear_light::tables();
            let to_linear = |rgb: &[u8; 3]| U16x3::new(rgb.map(|value| linear[usize::from(value)]));
            let to_encoded = |pixel: &U16x3| pixel.0.map(|light| encoded[usize::from(light)]);
            let bytes = resample_in_strips(
                rgb.as_chunks().0,
                rgb.width(),
                plan,
                false,
                to_linear,
                to_encoded,
            )?;
            RgbImage::from_raw(width, height, bytes).map(Into::into)
        }
        (DynamicImage::ImageRgba8(_), ResampleSpace::Encoded) => {
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

/// Resamples in horizontal bands. Linear light takes up to four times the bytes of the image. With bands only a part of
/// it is in memory at a time, mostly in the cache of the processor.
///
/// This calls `resize_typed` and not `resize`, because `resize` is compiled for all fifteen pixel types, which takes
/// minutes.
fn resample_in_strips<P: PixelTrait, const N: usize>(
    source: &[[u8; N]],
    width: u32,
    plan: Plan,
    use_alpha: bool,
    to_linear: impl Fn(&[u8; N]) -> P,
    to_encoded: impl Fn(&P) -> [u8; N],
) -> Option<Vec<u8>> {
    let row = width as usize;
    let height = u32::try_from(source.len() / row).ok()?;
    let scaled = plan.scaled;
    let visible = visible_part(width, height, plan);
    let step = visible.height / f64::from(scaled.height);
    // A row of the result needs source rows up to this far away.
    let reach = LOBES * step.max(1.0) + 1.0;
    let rows_in_band = u32::try_from(BAND_BYTES / (row * size_of::<P>())).ok()?;
    let rows = whole_rows((f64::from(rows_in_band) / step).clamp(32.0, 512.0));

    let mut resizer = Resizer::new();
    let mut linear = Vec::new();
    let mut bytes = Vec::with_capacity(scaled.width as usize * scaled.height as usize * N);
    for first_row in (0..scaled.height).step_by(rows as usize) {
        let end_row = scaled.height.min(first_row + rows);
        let top = visible.top + f64::from(first_row) * step;
        let band_height = f64::from(end_row - first_row) * step;
        let first = whole_rows((top - reach).max(0.0));
        let last = whole_rows((top + band_height + reach).ceil()).min(height);
        // Because of rounding the band could otherwise end below the last row.
        let band_height = band_height.min(f64::from(last) - top);
        linear.clear();
        linear.extend(
            source[first as usize * row..last as usize * row]
                .iter()
                .map(&to_linear),
        );
        let source_rows = TypedImageRef::new(width, last - first, &linear).ok()?;
        let mut band = TypedImage::new(scaled.width, end_row - first_row);
        let options = ResizeOptions::new().use_alpha(use_alpha).crop(
            visible.left,
            top - f64::from(first),
            visible.width,
            band_height,
        );
        resizer
            .resize_typed(&source_rows, &mut band, &options)
            .ok()?;
        bytes.extend(band.pixels().iter().flat_map(&to_encoded));
    }
    Some(bytes)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number of rows of an image is small"
)]
fn whole_rows(rows: f64) -> u32 {
    rows as u32
}

/// The part of the image that is left after cropping.
fn visible_part(width: u32, height: u32, plan: Plan) -> CropBox {
    if plan.crops {
        let Pixels {
            width: w,
            height: h,
        } = plan.scaled;
        return CropBox::fit_src_into_dst_size(width, height, w, h, Some((0.5, 0.5)));
    }
    CropBox {
        left: 0.0,
        top: 0.0,
        width: f64::from(width),
        height: f64::from(height),
    }
}

/// The options of the resizer. `use_alpha` weights colors by their alpha. It is set if the pixels have an alpha channel.
fn options(plan: Plan, use_alpha: bool) -> ResizeOptions {
    let options = ResizeOptions::new().use_alpha(use_alpha);
    if plan.crops {
        options.fit_into_destination(Some((0.5, 0.5)))
    } else {
        options
    }
}

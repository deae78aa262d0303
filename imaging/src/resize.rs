//! Resampling: Lanczos with three lobes, as light ([`light`](super::light)), colours weighed by their alpha.

use fast_image_resize::{
    CropBox, PixelTrait, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::{F32x4, U8x3, U8x4, U16x3},
};
use image::{DynamicImage, Rgb, RgbImage, Rgba, RgbaImage, imageops};

use common::generation::image::Pixels;

use super::ImagingError;
use super::fit::Plan;
use super::linear_light;

/// Of the filter, on either side.
const LOBES: f64 = 3.0;
/// Bytes of light in a band, about.
const BAND: usize = 4 << 20;

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
pub(super) fn resize(
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
            let shares = linear_light::shares();
            let shine = |&[r, g, b, a]: &[u8; 4]| {
                let [r, g, b] = [r, g, b].map(|value| shares[usize::from(value)]);
                F32x4::new([r, g, b, f32::from(a) / 255.0])
            };
            let show = |pixel: &F32x4| {
                let [r, g, b, a] = pixel.0;
                let [r, g, b] = [r, g, b].map(linear_light::to_srgb);
                [r, g, b, linear_light::share(a)]
            };
            let bytes = in_bands(rgba.as_chunks().0, rgba.width(), plan, true, shine, show)?;
            RgbaImage::from_raw(width, height, bytes).map(Into::into)
        }
        (DynamicImage::ImageRgb8(rgb), Space::Light) => {
            let (to_light, to_value) = linear_light::tables();
            let shine = |rgb: &[u8; 3]| U16x3::new(rgb.map(|value| to_light[usize::from(value)]));
            let show = |pixel: &U16x3| pixel.0.map(|light| to_value[usize::from(light)]);
            let bytes = in_bands(rgb.as_chunks().0, rgb.width(), plan, false, shine, show)?;
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

/// Resamples band by band: of the light, which takes up to four times the bytes of the picture, there is never more than a band
/// in memory, and most of that in the processor's own. The entrance is the typed one: the untyped is compiled here for all fifteen pixel
/// types, which takes minutes.
fn in_bands<P: PixelTrait, const N: usize>(
    source: &[[u8; N]],
    width: u32,
    plan: Plan,
    use_alpha: bool,
    shine: impl Fn(&[u8; N]) -> P,
    show: impl Fn(&P) -> [u8; N],
) -> Option<Vec<u8>> {
    let row = width as usize;
    let height = u32::try_from(source.len() / row).ok()?;
    let scaled = plan.scaled;
    let whole = shown(width, height, plan);
    let step = whole.height / f64::from(scaled.height);
    // What a row is made of reaches so far beyond it.
    let reach = LOBES * step.max(1.0) + 1.0;
    let lit_rows = u32::try_from(BAND / (row * size_of::<P>())).ok()?;
    let rows = whole_rows((f64::from(lit_rows) / step).clamp(32.0, 512.0));

    let mut resizer = Resizer::new();
    let mut lit = Vec::new();
    let mut bytes = Vec::with_capacity(scaled.width as usize * scaled.height as usize * N);
    for from in (0..scaled.height).step_by(rows as usize) {
        let to = scaled.height.min(from + rows);
        let top = whole.top + f64::from(from) * step;
        let tall = f64::from(to - from) * step;
        let first = whole_rows((top - reach).max(0.0));
        let last = whole_rows((top + tall + reach).ceil()).min(height);
        // Rounding must not lead out of the picture.
        let tall = tall.min(f64::from(last) - top);
        lit.clear();
        lit.extend(
            source[first as usize * row..last as usize * row]
                .iter()
                .map(&shine),
        );
        let slab = TypedImageRef::new(width, last - first, &lit).ok()?;
        let mut band = TypedImage::new(scaled.width, to - from);
        let options = ResizeOptions::new().use_alpha(use_alpha).crop(
            whole.left,
            top - f64::from(first),
            whole.width,
            tall,
        );
        resizer.resize_typed(&slab, &mut band, &options).ok()?;
        bytes.extend(band.pixels().iter().flat_map(&show));
    }
    Some(bytes)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rows of a picture"
)]
fn whole_rows(rows: f64) -> u32 {
    rows as u32
}

/// What of the picture is shown.
fn shown(width: u32, height: u32, plan: Plan) -> CropBox {
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

/// Colours are weighed by their alpha only where there is some: it costs a pass, and would round opaque ones.
fn options(plan: Plan, use_alpha: bool) -> ResizeOptions {
    let options = ResizeOptions::new().use_alpha(use_alpha);
    if plan.crops {
        options.fit_into_destination(Some((0.5, 0.5)))
    } else {
        options
    }
}

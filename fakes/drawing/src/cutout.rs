//! Prepares input images for the scene: cuts products out of a plain background, and scales them.

use super::canvas::{Rect, float, whole};
use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::U8x4,
};
use image::{DynamicImage, Rgba, RgbaImage};
use std::collections::VecDeque;

/// A color that differs from the background by less than this belongs to the background.
const MAX_BACKGROUND_DISTANCE: i32 = 26;
/// A color that differs from the background by at least this belongs to the product. A color between the two limits
/// becomes partly transparent.
const MIN_PRODUCT_DISTANCE: i32 = 60;

/// An input image at the size at which it is drawn.
pub(crate) struct PlacedImage {
    pub(crate) image: RgbaImage,
    /// Whether the image is drawn as a card, because its background could not be removed.
    pub(crate) is_framed: bool,
}

impl PlacedImage {
    pub(crate) fn size(&self) -> (f32, f32) {
        (float(self.image.width()), float(self.image.height()))
    }
}

/// Fits an input image into a box. The product is cut out if the background is plain or already transparent. Otherwise
/// the whole image is used.
pub(crate) fn fit_into_box(input: &DynamicImage, width: f32, height: f32) -> PlacedImage {
    let input = input.to_rgba8();
    cut_out(&input, width, height).unwrap_or_else(|| PlacedImage {
        image: resample(&input, whole_area(&input), width, height),
        is_framed: true,
    })
}

/// Returns the middle of an input image as a square with sides of `side` pixels.
pub(crate) fn square(input: &DynamicImage, side: f32) -> RgbaImage {
    let input = input.to_rgba8();
    let (width, height) = (float(input.width()), float(input.height()));
    let short = width.min(height);
    let middle = Rect {
        left: (width - short) / 2.0,
        top: (height - short) / 2.0,
        width: short,
        height: short,
    };
    resample(&input, middle, side, side)
}

/// The product without its background, as large as the box allows. Returns `None` if the background is not plain.
fn cut_out(input: &RgbaImage, width: f32, height: f32) -> Option<PlacedImage> {
    // A small copy is enough to find the product.
    let mut small = resample(input, whole_area(input), 240.0, 240.0);
    let clear = small.pixels().filter(|pixel| pixel.0[3] < 128).count();
    // If more than 5 % of the pixels are transparent, the product is cut out already.
    let transparent = clear * 20 > small.pixels().len();
    let background = if transparent {
        None
    } else {
        Some(find_plain_background(&small)?)
    };
    if let Some(background) = background {
        clear_background(&mut small, background);
    }
    let found = bounds(&small)?;
    // The copy of a very narrow input image has other proportions, so there are two scale factors.
    let across = float(input.width()) / float(small.width());
    let down = float(input.height()) / float(small.height());
    // One pixel of the small copy more on each side, so that the edge of the product is not lost.
    let left = ((found.left - 1.0) * across).max(0.0);
    let top = ((found.top - 1.0) * down).max(0.0);
    let product = Rect {
        left,
        top,
        width: ((found.width + 2.0) * across).min(float(input.width()) - left),
        height: ((found.height + 2.0) * down).min(float(input.height()) - top),
    };
    let mut image = resample(input, product, width, height);
    if let Some(background) = background {
        clear_background(&mut image, background);
        soften_edge(&mut image, background);
    }
    Some(PlacedImage {
        image,
        is_framed: false,
    })
}

fn whole_area(input: &RgbaImage) -> Rect {
    Rect {
        left: 0.0,
        top: 0.0,
        width: float(input.width()),
        height: float(input.height()),
    }
}

/// A part of an input image, resampled to the largest size of its shape that fits the box.
fn resample(input: &RgbaImage, part: Rect, width: f32, height: f32) -> RgbaImage {
    let scale = (width / part.width).min(height / part.height);
    let to = |length: f32| whole((length * scale).round()).max(1);
    let mut image = RgbaImage::new(to(part.width), to(part.height));
    let (across, down) = image.dimensions();
    let source = TypedImageRef::<U8x4>::from_buffer(input.width(), input.height(), input.as_raw());
    let target = TypedImage::<U8x4>::from_buffer(across, down, image.as_mut());
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
        .crop(
            part.left.into(),
            part.top.into(),
            within(part.left, part.width, input.width()),
            within(part.top, part.height, input.height()),
        );
    // This calls `resize_typed` and not `resize`, because `resize` is compiled for all fifteen pixel types, which takes
    // a minute.
    if let (Ok(source), Ok(mut target)) = (source, target) {
        Resizer::new()
            .resize_typed(&source, &mut target, &options)
            .expect("the part lies inside the input, and both have four bytes for each pixel");
    }
    image
}

/// `length`, made shorter if `start + length` was rounded up to more than `end`, so that the part stays inside the
/// image.
fn within(start: f32, length: f32, end: u32) -> f64 {
    f64::from(length).min(f64::from(end) - f64::from(start))
}

/// The color of the background, which is the average of the four corners. Returns `None` if less than 88 % of the
/// border has about this color.
fn find_plain_background(image: &RgbaImage) -> Option<[i32; 3]> {
    let background = average_of_corners(image);
    let border = border(image);
    let plain = border
        .iter()
        .filter(|(x, y)| {
            color_distance(*image.get_pixel(*x, *y), background) < MAX_BACKGROUND_DISTANCE
        })
        .count();
    (plain * 100 >= border.len() * 88).then_some(background)
}

/// The places of the pixels at the border. Each corner is listed twice.
fn border(image: &RgbaImage) -> Vec<(u32, u32)> {
    let (width, height) = image.dimensions();
    (0..width)
        .flat_map(|x| [(x, 0), (x, height - 1)])
        .chain((0..height).flat_map(|y| [(0, y), (width - 1, y)]))
        .collect()
}

/// Makes the background transparent, by a flood fill from the border inwards.
fn clear_background(image: &mut RgbaImage, background: [i32; 3]) {
    let (width, height) = image.dimensions();
    let mut seen = vec![false; image.len() / 4];
    let index = |x: u32, y: u32| y as usize * width as usize + x as usize;
    let mut front: VecDeque<(u32, u32)> = border(image).into();
    while let Some((x, y)) = front.pop_front() {
        let at = index(x, y);
        if seen[at] {
            continue;
        }
        seen[at] = true;
        let pixel = image.get_pixel_mut(x, y);
        let far = color_distance(*pixel, background);
        if far >= MIN_PRODUCT_DISTANCE {
            continue;
        }
        // A pixel between the two limits is on the edge of the product, where both colors mix.
        let alpha = (far - MAX_BACKGROUND_DISTANCE)
            .clamp(0, MIN_PRODUCT_DISTANCE - MAX_BACKGROUND_DISTANCE)
            * 255
            / (MIN_PRODUCT_DISTANCE - MAX_BACKGROUND_DISTANCE);
        pixel.0[3] = u8::try_from(alpha).unwrap_or(u8::MAX);
        if far < MAX_BACKGROUND_DISTANCE {
            let near = [
                (x.wrapping_sub(1), y),
                (x + 1, y),
                (x, y.wrapping_sub(1)),
                (x, y + 1),
            ];
            front.extend(
                near.into_iter()
                    .filter(|(x, y)| *x < width && *y < height && !seen[index(*x, *y)]),
            );
        }
    }
}

/// Smooths the edge of the cut, and removes the background's color from pixels that are a mix of both.
fn soften_edge(image: &mut RgbaImage, background: [i32; 3]) {
    let (width, height) = image.dimensions();
    let cut = image.clone();
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            let mut sum = 0;
            for (down, across) in (0..3).flat_map(|down| (0..3).map(move |across| (down, across))) {
                sum += i32::from(cut.get_pixel(x + across - 1, y + down - 1).0[3]);
            }
            if sum == 0 || sum == 9 * 255 {
                continue;
            }
            // Pixels only become more transparent, so that removed background stays removed.
            let pixel = image.get_pixel_mut(x, y);
            let alpha = (sum / 9).min(i32::from(pixel.0[3]));
            pixel.0[3] = u8::try_from(alpha).unwrap_or_default();
            if alpha > 0 {
                for (channel, background) in pixel.0.iter_mut().zip(background) {
                    // The divisor has a lower limit, because colors of nearly transparent pixels would become glaring.
                    let own = background + (i32::from(*channel) - background) * 255 / alpha.max(96);
                    *channel = u8::try_from(own.clamp(0, 255)).unwrap_or_default();
                }
            }
        }
    }
}

/// The largest difference between a pixel and the background in any channel.
fn color_distance(pixel: Rgba<u8>, background: [i32; 3]) -> i32 {
    let channels = pixel.0.into_iter().zip(background);
    channels
        .map(|(channel, background)| (i32::from(channel) - background).abs())
        .max()
        .unwrap_or_default()
}

/// The average color of the four corners, whatever their transparency.
fn average_of_corners(image: &RgbaImage) -> [i32; 3] {
    let (right, bottom) = (image.width() - 1, image.height() - 1);
    let mut sum = [0; 3];
    for (x, y) in [(0, 0), (right, 0), (0, bottom), (right, bottom)] {
        for (sum, channel) in sum.iter_mut().zip(image.get_pixel(x, y).0) {
            *sum += i32::from(channel);
        }
    }
    sum.map(|channel| channel / 4)
}

/// The smallest box around all pixels that are not nearly transparent (an alpha over 40).
fn bounds(image: &RgbaImage) -> Option<Rect> {
    let mut found: Option<(u32, u32, u32, u32)> = None;
    for (x, y, pixel) in image.enumerate_pixels() {
        if pixel.0[3] > 40 {
            let (left, top, right, bottom) = found.unwrap_or((x, y, x, y));
            found = Some((left.min(x), top.min(y), right.max(x), bottom.max(y)));
        }
    }
    let (left, top, right, bottom) = found?;
    Some(Rect {
        left: float(left),
        top: float(top),
        width: float(right - left + 1),
        height: float(bottom - top + 1),
    })
}

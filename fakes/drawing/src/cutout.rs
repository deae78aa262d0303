//! Prepares photos for the scene: cuts products out of a plain background, and scales.

use super::canvas::{Rect, float, whole};
use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::U8x4,
};
use image::{DynamicImage, Rgba, RgbaImage};
use std::collections::VecDeque;

/// A color that differs by less than this from the background belongs to the background.
const SAME_GROUND: i32 = 26;
/// A color that differs by at least this belongs to the product. Between the two it becomes partly transparent.
const OTHER_GROUND: i32 = 60;

/// A photo at the size at which it is drawn.
pub(crate) struct Standing {
    pub(crate) picture: RgbaImage,
    /// Its background could not be removed, so it is drawn as a card.
    pub(crate) framed: bool,
}

impl Standing {
    pub(crate) fn size(&self) -> (f32, f32) {
        (float(self.picture.width()), float(self.picture.height()))
    }
}

/// Fits a photo into a box: cut out if its background is plain or already transparent, else whole.
pub(crate) fn fit(photo: &DynamicImage, width: f32, height: f32) -> Standing {
    let photo = photo.to_rgba8();
    standing_free(&photo, width, height).unwrap_or_else(|| Standing {
        picture: fitted(&photo, whole_of(&photo), width, height),
        framed: true,
    })
}

/// The middle of a photo as a square.
pub(crate) fn square(photo: &DynamicImage, side: f32) -> RgbaImage {
    let photo = photo.to_rgba8();
    let (width, height) = (float(photo.width()), float(photo.height()));
    let short = width.min(height);
    let middle = Rect {
        left: (width - short) / 2.0,
        top: (height - short) / 2.0,
        width: short,
        height: short,
    };
    fitted(&photo, middle, side, side)
}

/// The product without its background, as large as the box allows. `None` if the background is not plain.
fn standing_free(photo: &RgbaImage, width: f32, height: f32) -> Option<Standing> {
    // A small copy is enough to find the product.
    let mut small = fitted(photo, whole_of(photo), 240.0, 240.0);
    let clear = small.pixels().filter(|pixel| pixel.0[3] < 128).count();
    let transparent = clear * 20 > small.pixels().len();
    let ground = if transparent {
        None
    } else {
        Some(plain_ground(&small)?)
    };
    if let Some(ground) = ground {
        clear_ground(&mut small, ground);
    }
    let found = bounds(&small)?;
    // The copy of a very narrow photo has other proportions, so there are two factors.
    let across = float(photo.width()) / float(small.width());
    let down = float(photo.height()) / float(small.height());
    let left = ((found.left - 1.0) * across).max(0.0);
    let top = ((found.top - 1.0) * down).max(0.0);
    let product = Rect {
        left,
        top,
        width: ((found.width + 2.0) * across).min(float(photo.width()) - left),
        height: ((found.height + 2.0) * down).min(float(photo.height()) - top),
    };
    let mut picture = fitted(photo, product, width, height);
    if let Some(ground) = ground {
        clear_ground(&mut picture, ground);
        soften_edge(&mut picture, ground);
    }
    Some(Standing {
        picture,
        framed: false,
    })
}

fn whole_of(photo: &RgbaImage) -> Rect {
    Rect {
        left: 0.0,
        top: 0.0,
        width: float(photo.width()),
        height: float(photo.height()),
    }
}

/// A part of a photo, resampled to the largest size of its shape that fits the box.
fn fitted(photo: &RgbaImage, part: Rect, width: f32, height: f32) -> RgbaImage {
    let scale = (width / part.width).min(height / part.height);
    let to = |length: f32| whole((length * scale).round()).max(1);
    let mut picture = RgbaImage::new(to(part.width), to(part.height));
    let (across, down) = picture.dimensions();
    let source = TypedImageRef::<U8x4>::from_buffer(photo.width(), photo.height(), photo.as_raw());
    let target = TypedImage::<U8x4>::from_buffer(across, down, picture.as_mut());
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
        .crop(
            part.left.into(),
            part.top.into(),
            within(part.left, part.width, photo.width()),
            within(part.top, part.height, photo.height()),
        );
    // `resize_typed` and not `resize`: that is compiled here for all fifteen pixel types, which takes a minute.
    if let (Ok(source), Ok(mut target)) = (source, target) {
        Resizer::new()
            .resize_typed(&source, &mut target, &options)
            .expect("the part lies inside the photo and both have four bytes a pixel");
    }
    picture
}

/// A length that ends inside the photo even if the sum was rounded up.
fn within(start: f32, length: f32, end: u32) -> f64 {
    f64::from(length).min(f64::from(end) - f64::from(start))
}

/// The background: the color of the border, if nearly all of the border has one color.
fn plain_ground(picture: &RgbaImage) -> Option<[i32; 3]> {
    let ground = average_corner(picture);
    let border = border(picture);
    let plain = border
        .iter()
        .filter(|(x, y)| away(*picture.get_pixel(*x, *y), ground) < SAME_GROUND)
        .count();
    (plain * 100 >= border.len() * 88).then_some(ground)
}

fn border(picture: &RgbaImage) -> Vec<(u32, u32)> {
    let (width, height) = picture.dimensions();
    (0..width)
        .flat_map(|x| [(x, 0), (x, height - 1)])
        .chain((0..height).flat_map(|y| [(0, y), (width - 1, y)]))
        .collect()
}

/// Makes the background transparent: a flood fill from the border inwards.
fn clear_ground(picture: &mut RgbaImage, ground: [i32; 3]) {
    let (width, height) = picture.dimensions();
    let mut seen = vec![false; picture.len() / 4];
    let index = |x: u32, y: u32| y as usize * width as usize + x as usize;
    let mut front: VecDeque<(u32, u32)> = border(picture).into();
    while let Some((x, y)) = front.pop_front() {
        let at = index(x, y);
        if seen[at] {
            continue;
        }
        seen[at] = true;
        let pixel = picture.get_pixel_mut(x, y);
        let far = away(*pixel, ground);
        if far >= OTHER_GROUND {
            continue;
        }
        // Between the two limits lies the edge of the product, a mix of both colors.
        let kept = (far - SAME_GROUND).clamp(0, OTHER_GROUND - SAME_GROUND) * 255
            / (OTHER_GROUND - SAME_GROUND);
        pixel.0[3] = u8::try_from(kept).unwrap_or(u8::MAX);
        if far < SAME_GROUND {
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
fn soften_edge(picture: &mut RgbaImage, ground: [i32; 3]) {
    let (width, height) = picture.dimensions();
    let cut = picture.clone();
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            let mut sum = 0;
            for (down, across) in (0..3).flat_map(|down| (0..3).map(move |across| (down, across))) {
                sum += i32::from(cut.get_pixel(x + across - 1, y + down - 1).0[3]);
            }
            if sum == 0 || sum == 9 * 255 {
                continue;
            }
            // Only make pixels more transparent: removed background stays removed.
            let pixel = picture.get_pixel_mut(x, y);
            let alpha = (sum / 9).min(i32::from(pixel.0[3]));
            pixel.0[3] = u8::try_from(alpha).unwrap_or_default();
            if alpha > 0 {
                for (channel, ground) in pixel.0.iter_mut().zip(ground) {
                    let own = ground + (i32::from(*channel) - ground) * 255 / alpha.max(96);
                    *channel = u8::try_from(own.clamp(0, 255)).unwrap_or_default();
                }
            }
        }
    }
}

/// The largest difference in any channel.
fn away(pixel: Rgba<u8>, ground: [i32; 3]) -> i32 {
    let channels = pixel.0.into_iter().zip(ground);
    channels
        .map(|(channel, ground)| (i32::from(channel) - ground).abs())
        .max()
        .unwrap_or_default()
}

fn average_corner(picture: &RgbaImage) -> [i32; 3] {
    let (right, bottom) = (picture.width() - 1, picture.height() - 1);
    let mut sum = [0; 3];
    for (x, y) in [(0, 0), (right, 0), (0, bottom), (right, bottom)] {
        for (sum, channel) in sum.iter_mut().zip(picture.get_pixel(x, y).0) {
            *sum += i32::from(channel);
        }
    }
    sum.map(|channel| channel / 4)
}

/// The smallest box around all pixels that are not transparent.
fn bounds(picture: &RgbaImage) -> Option<Rect> {
    let mut found: Option<(u32, u32, u32, u32)> = None;
    for (x, y, pixel) in picture.enumerate_pixels() {
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

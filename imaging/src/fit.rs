//! Decides how an image gets its target size: what is scaled, cropped or padded, and which images are refused.

use image::metadata::Orientation;

use domain::generation::image::{Fit, Pixels, Recipe};

use super::ImagingError;
use super::decode::turned_size;

/// By how much an image may be cropped or enlarged, in percent, unless its job allows more.
///
/// Models return 1344 pixels for 1376, or 1280×896 for 5:4. If the difference is larger, the image is not what was
/// asked for.
const TOLERANCE_PERCENT: u64 = 5;

/// How an image gets its target size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The size that the image is resampled to.
    pub(super) scaled: Pixels,
    /// Whether the image is first cropped to the shape of `scaled`, around its center. Otherwise the whole image is
    /// stretched by the one pixel or less by which the shapes differ.
    pub(super) crops: bool,
    /// The size of the result. The resampled image is put into the middle of the result.
    pub(super) target: Pixels,
}

impl Plan {
    /// The plan for an image of `width`×`height`.
    ///
    /// # Errors
    /// Returns `WrongShape` or `TooSmall` if the recipe does not allow the image's shape or size.
    pub(super) fn new(width: u32, height: u32, recipe: &Recipe) -> Result<Self, ImagingError> {
        let (target, rendering) = (recipe.target, &recipe.rendering);
        let [w, h] = [width, height].map(u64::from);
        let [tw, th] = [target.width, target.height].map(u64::from);
        let is_within_tolerance =
            |larger: u64, smaller: u64| larger * 100 <= smaller * (100 + TOLERANCE_PERCENT);

        // Cross products, so that the two aspect ratios are compared exactly, without division.
        let (image_product, target_product) = (w * th, h * tw);
        let shape_fits = match rendering.fit {
            Fit::Cover => {
                rendering.allow_crop
                    || is_within_tolerance(
                        image_product.max(target_product),
                        image_product.min(target_product),
                    )
            }
            Fit::Contain => true,
            // Sides are whole pixels, so the shapes may differ by one pixel of the target.
            Fit::Strict => image_product.abs_diff(target_product) <= w.max(h),
        };
        if !shape_fits || [w, h, tw, th].contains(&0) {
            return Err(ImagingError::WrongShape {
                width,
                height,
                target,
                fit: rendering.fit,
            });
        }
        let scaled = match rendering.fit {
            Fit::Contain => contained(width, height, target),
            Fit::Cover | Fit::Strict => target,
        };
        let [sw, sh] = [scaled.width, scaled.height].map(u64::from);
        let is_enlarged_much = !is_within_tolerance(sw, w) || !is_within_tolerance(sh, h);
        if is_enlarged_much && !rendering.allow_upscale {
            return Err(ImagingError::TooSmall {
                width,
                height,
                target,
            });
        }
        Ok(Self {
            scaled,
            crops: rendering.fit == Fit::Cover,
            target,
        })
    }

    /// The plan that reduces a whole image to at most `max_side` pixels a side. A smaller image keeps its size.
    pub(super) fn within_square(width: u32, height: u32, max_side: u32) -> Self {
        let side = max_side.min(width.max(height));
        let square = Pixels {
            width: side,
            height: side,
        };
        let scaled = contained(width, height, square);
        Self {
            scaled,
            crops: false,
            target: scaled,
        }
    }

    /// The plan for pixels as they are stored, which `orientation` turns upright afterwards.
    pub(super) fn turned(self, orientation: Orientation) -> Self {
        let turned = |pixels: Pixels| {
            let (width, height) = turned_size(orientation, pixels.width, pixels.height);
            Pixels { width, height }
        };
        Self {
            scaled: turned(self.scaled),
            crops: self.crops,
            target: turned(self.target),
        }
    }
}

/// The largest size with the shape of the image that fits into the target, in whole pixels, at least one.
fn contained(width: u32, height: u32, target: Pixels) -> Pixels {
    let [w, h] = [width, height].map(u64::from);
    let [tw, th] = [target.width, target.height].map(u64::from);
    let scale = |side: u64, from: u64, to: u64, max: u32| {
        let rounded = (side * to + from / 2) / from;
        u32::try_from(rounded).unwrap_or(max).clamp(1, max)
    };
    // The image is wider than the target, so it gets the width of the target.
    if w * th > h * tw {
        Pixels {
            width: target.width,
            height: scale(h, w, tw, target.height),
        }
    } else {
        Pixels {
            width: scale(w, h, th, target.width),
            height: target.height,
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::generation::image::{Format, Rendering};

    use super::*;

    fn verdict(size: (u32, u32), target: (u32, u32), rendering: Rendering) -> String {
        let target = Pixels {
            width: target.0,
            height: target.1,
        };
        let recipe = Recipe {
            target,
            format: Format::Png,
            rendering,
        };
        match Plan::new(size.0, size.1, &recipe) {
            Ok(plan) => plan.scaled.to_string(),
            Err(ImagingError::WrongShape { .. }) => "shape".to_owned(),
            Err(ImagingError::TooSmall { .. }) => "small".to_owned(),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn cover_allows_five_percent() {
        let check = |size: (u32, u32), target: (u32, u32), expected: &str| {
            let is = verdict(size, target, Rendering::default());
            assert_eq!(is, expected, "{size:?} to {target:?}");
        };
        check((1024, 1024), (1024, 1024), "1024×1024");
        check((4096, 4096), (1024, 1024), "1024×1024");
        check((1344, 768), (1376, 768), "1376×768"); // what Gemini 2.5 returns for 16:9
        check((1050, 1000), (1000, 1000), "1000×1000");
        check((1051, 1000), (1000, 1000), "shape");
        check((1000, 1051), (1000, 1000), "shape");
        check((1376, 768), (768, 1376), "shape");
        check((1000, 1000), (1050, 1050), "1050×1050");
        check((1000, 1000), (1051, 1051), "small");
        check((1024, 1024), (2048, 2048), "small");
        check((1, 1), (1024, 1024), "small");
        check((1024, 1024), (0, 1024), "shape");
    }

    #[test]
    fn a_job_can_allow_cropping_and_enlarging() {
        let crop = Rendering {
            allow_crop: true,
            ..Rendering::default()
        };
        assert_eq!(verdict((1536, 1024), (1024, 1024), crop), "1024×1024");
        assert_eq!(verdict((1536, 900), (1024, 1024), crop), "small");
        let upscale = Rendering {
            allow_upscale: true,
            ..Rendering::default()
        };
        assert_eq!(verdict((512, 512), (2048, 2048), upscale), "2048×2048");
        assert_eq!(verdict((512, 600), (2048, 2048), upscale), "shape");
    }

    #[test]
    fn contain_keeps_the_shape() {
        let contain = Rendering {
            fit: Fit::Contain,
            ..Rendering::default()
        };
        let check = |size, target, expected: &str| {
            assert_eq!(verdict(size, target, contain), expected, "{size:?}");
        };
        check((1536, 1024), (1024, 1024), "1024×683");
        check((1024, 1536), (1024, 1024), "683×1024");
        check((9000, 1), (1024, 1024), "1024×1");
        check((1024, 1024), (1024, 1024), "1024×1024");
        check((500, 1000), (2048, 2048), "small");
    }

    #[test]
    fn strict_allows_only_the_same_shape() {
        let strict = Rendering {
            fit: Fit::Strict,
            ..Rendering::default()
        };
        let check = |size, target, expected: &str| {
            assert_eq!(verdict(size, target, strict), expected, "{size:?}");
        };
        check((1696, 2528), (848, 1264), "848×1264");
        check((1695, 2528), (848, 1264), "848×1264"); // half a pixel
        check((1680, 2528), (848, 1264), "shape");
        check((1344, 768), (1376, 768), "shape");
    }
}

//! From the size a picture has to the size it must have: what is scaled, cropped or padded, and when that is refused.

use common::generation::image::{Fit, Pixels, Recipe};

use super::ImagingError;

/// How far a picture may be off, in percent, unless its job allows more: what is cropped, and what is enlarged.
///
/// Models return 1344 for 1376, or 1280×896 for 5:4. More than that is not the picture that was asked for.
const TOLERANCE: u64 = 5;

/// What is done to a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// What the picture is resampled to.
    pub(super) scaled: Pixels,
    /// Whether what juts out of that shape is cropped away before, around the centre. Else the whole picture is
    /// stretched by the part of a pixel that it is off.
    pub(super) crops: bool,
    /// What that is put into the middle of.
    pub(super) target: Pixels,
}

impl Plan {
    /// What becomes of a picture of `width`×`height`, or why nothing does.
    pub(super) fn new(width: u32, height: u32, recipe: &Recipe) -> Result<Self, ImagingError> {
        let (target, wish) = (recipe.target, &recipe.rendering);
        let [w, h] = [width, height].map(u64::from);
        let [tw, th] = [target.width, target.height].map(u64::from);
        let within = |larger: u64, smaller: u64| larger * 100 <= smaller * (100 + TOLERANCE);

        // The quotient of the two aspect ratios, kept as two products.
        let (ours, theirs) = (w * th, h * tw);
        let shape_fits = match wish.fit {
            Fit::Cover => wish.allow_crop || within(ours.max(theirs), ours.min(theirs)),
            Fit::Contain => true,
            // Its own pixels are whole, too: it may be one off.
            Fit::Strict => ours.abs_diff(theirs) <= w.max(h),
        };
        if !shape_fits || [w, h, tw, th].contains(&0) {
            return Err(ImagingError::WrongShape {
                width,
                height,
                target,
                fit: wish.fit,
            });
        }
        let scaled = match wish.fit {
            Fit::Contain => contained(width, height, target),
            Fit::Cover | Fit::Strict => target,
        };
        let [sw, sh] = [scaled.width, scaled.height].map(u64::from);
        let enlarged = !within(sw, w) || !within(sh, h);
        if enlarged && !wish.allow_upscale {
            return Err(ImagingError::TooSmall {
                width,
                height,
                target,
            });
        }
        Ok(Self {
            scaled,
            crops: wish.fit == Fit::Cover,
            target,
        })
    }

    /// The whole picture, of at most `side` pixels a side; never enlarged.
    pub(super) fn inside(width: u32, height: u32, side: u32) -> Self {
        let side = side.min(width.max(height));
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

    /// The same for pixels that lie on their side.
    pub(super) fn on_its_side(self) -> Self {
        let turn = |pixels: Pixels| Pixels {
            width: pixels.height,
            height: pixels.width,
        };
        Self {
            scaled: turn(self.scaled),
            crops: self.crops,
            target: turn(self.target),
        }
    }
}

/// The largest size of the picture's own shape that the target contains; whole pixels, at least one.
fn contained(width: u32, height: u32, target: Pixels) -> Pixels {
    let [w, h] = [width, height].map(u64::from);
    let [tw, th] = [target.width, target.height].map(u64::from);
    let part = |side: u64, of: u64, whole: u64, most: u32| {
        let rounded = (side * whole + of / 2) / of;
        u32::try_from(rounded).unwrap_or(most).clamp(1, most)
    };
    if w * th > h * tw {
        Pixels {
            width: target.width,
            height: part(h, w, tw, target.height),
        }
    } else {
        Pixels {
            width: part(w, h, th, target.width),
            height: target.height,
        }
    }
}

#[cfg(test)]
mod tests {
    use common::generation::image::{Format, Rendering};

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
    fn only_what_is_nearly_right_covers() {
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
    fn a_job_may_allow_more() {
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
    fn what_is_contained_keeps_its_shape() {
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
    fn strict_is_the_same_shape() {
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

//! Converts pixels to sRGB. Screens assume this color space for files that name none. Our files name it.
//!
//! A file can describe its colors in several ways. The first description that can be read counts, in the order of the
//! PNG specification (third edition, 4.3): cICP, ICC profile, sRGB, then gAMA and cHRM. If this description cannot be
//! applied, the image is refused. Its pixels are never treated as sRGB instead.

use image::{DynamicImage, ImageBuffer};
use moxcms::{
    Chromaticity, ColorPrimaries, ColorProfile, DataColorSpace, Layout, ToneReprCurve,
    TransformOptions,
};

use super::buffer::buffer;

/// Why an image is refused, as a phrase for people.
type Reason = &'static str;

const UNUSABLE_PROFILE: Reason =
    "its color profile cannot be applied: convert it to sRGB before sending it";

pub(super) const VIDEO_COLORS: Reason =
    "its colors are encoded as in a video (cICP): convert it to sRGB";

/// What a file says about its colors.
#[derive(Clone, Debug, Default)]
pub(super) struct ColorTags {
    /// Primaries, transfer function, matrix and range, as ITU-T H.273 numbers them.
    pub(super) cicp: Option<[u8; 4]>,
    /// An ICC profile.
    pub(super) icc: Option<Vec<u8>>,
    /// Whether the file says that its colors are sRGB.
    pub(super) srgb: bool,
    /// The exponent with which linear light was encoded (`gAMA`).
    pub(super) gamma: Option<f32>,
    /// The white point and the primaries (`cHRM`).
    pub(super) chromaticities: Option<Chromaticities>,
}

/// The chromaticities x and y of white, red, green and blue.
type Chromaticities = [[f32; 2]; 4];

/// Pixels as they are decoded, before any conversion of colors.
pub(super) enum Decoded {
    /// Gray or RGB, with or without alpha, of 8 or 16 bits a channel.
    Additive(DynamicImage),
    /// Cyan, magenta, yellow and black. 255 means full ink.
    Cmyk {
        width: u32,
        height: u32,
        samples: Vec<u8>,
    },
}

/// Converts pixels to eight-bit RGB or RGBA in sRGB.
pub(super) fn to_srgb(pixels: Decoded, tags: &ColorTags) -> Result<DynamicImage, Reason> {
    match pixels {
        Decoded::Additive(pixels) => {
            let is_gray = !pixels.color().has_color();
            let pixels = match tags.profile(if is_gray { Source::Gray } else { Source::Rgb })? {
                Some(profile) => convert(pixels, &profile).ok_or(UNUSABLE_PROFILE)?,
                None => pixels,
            };
            Ok(if pixels.color().has_alpha() {
                pixels.into_rgba8().into()
            } else {
                pixels.into_rgb8().into()
            })
        }
        Decoded::Cmyk {
            width,
            height,
            samples,
        } => {
            let rgb = match tags.profile(Source::Cmyk)? {
                Some(profile) => {
                    // To the library, `Rgba` is the layout of CMYK, too.
                    convert8(&profile, Layout::Rgba, Layout::Rgb, &samples)
                        .ok_or(UNUSABLE_PROFILE)?
                }
                None => cmyk_to_rgb(&samples),
            };
            let pixels = ImageBuffer::from_raw(width, height, rgb);
            pixels.map(DynamicImage::ImageRgb8).ok_or(UNUSABLE_PROFILE)
        }
    }
}

/// The kind of pixels that a profile has to describe.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Gray,
    Rgb,
    Cmyk,
}

impl ColorTags {
    /// Whether RGB pixels with these tags are sRGB already.
    pub(super) fn are_srgb(&self) -> bool {
        matches!(self.profile(Source::Rgb), Ok(None))
    }

    /// The color space of the pixels. Returns `None` if they are sRGB, or if the file says nothing that can be read.
    /// The error says why a color space in cICP numbers is not supported.
    fn profile(&self, source: Source) -> Result<Option<ColorProfile>, Reason> {
        // 2 means unspecified, both for primaries and for the transfer function (H.273).
        if let Some(numbers) = self.cicp
            && !numbers[..2].contains(&2)
        {
            return from_cicp(numbers).map(|profile| Some(profile).filter(|p| !is_srgb(p)));
        }
        let icc = self.icc.as_deref().and_then(|icc| from_icc(icc, source));
        if icc.is_none() && self.srgb {
            return Ok(None);
        }
        let profile =
            icc.or_else(|| from_gamma_and_chromaticities(self.gamma, self.chromaticities));
        Ok(profile.filter(|profile| !is_srgb(profile)))
    }
}

/// Reads an ICC profile. Returns `None` if the profile cannot be read or does not fit the image. Viewers ignore such
/// profiles, and so do we.
fn from_icc(icc: &[u8], source: Source) -> Option<ColorProfile> {
    let mut profile = ColorProfile::new_from_slice(icc).ok()?;
    let fits = match profile.color_space {
        DataColorSpace::Gray => source == Source::Gray,
        DataColorSpace::Rgb => source != Source::Cmyk,
        DataColorSpace::Cmyk => source == Source::Cmyk,
        _ => false,
    };
    if profile.color_space == DataColorSpace::Gray && profile.pcs == DataColorSpace::Lab {
        lab_to_xyz(&mut profile)?;
    }
    fits.then_some(profile)
}

/// Converts a gray profile from CIELAB to XYZ, which the color library needs. Such a profile maps levels to lightness
/// (L*) and not to linear light. The formula is that of CIE 15.
fn lab_to_xyz(profile: &mut ColorProfile) -> Option<()> {
    const STEPS: u16 = 4096;
    let curve = profile.gray_trc.as_ref()?.make_linear_evaluator().ok()?;
    let levels = (0..STEPS).map(|step| {
        let level = f32::from(step) / f32::from(STEPS - 1);
        let lightness = curve.evaluate_value(level).clamp(0.0, 1.0) * 100.0;
        let light = if lightness > 8.0 {
            ((lightness + 16.0) / 116.0).powi(3)
        } else {
            lightness * 27.0 / 24_389.0
        };
        sixteen_bits(light)
    });
    profile.gray_trc = Some(ToneReprCurve::Lut(levels.collect()));
    profile.pcs = DataColorSpace::Xyz;
    Some(())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the share is between 0 and 1"
)]
fn sixteen_bits(share: f32) -> u16 {
    (share * 65_535.0).round() as u16
}

/// The white point of sRGB and most video.
const D65: [f32; 2] = [0.3127, 0.3290];

/// The color space with these cICP numbers. They are defined in ITU-T H.273, tables 2 (primaries), 3 (transfer) and 4
/// (matrix).
fn from_cicp([primaries, transfer, matrix, range]: [u8; 4]) -> Result<ColorProfile, Reason> {
    let chromaticities = match primaries {
        1 => [D65, [0.64, 0.33], [0.30, 0.60], [0.15, 0.06]],
        4 => [[0.310, 0.316], [0.67, 0.33], [0.21, 0.71], [0.14, 0.08]],
        5 => [D65, [0.64, 0.33], [0.29, 0.60], [0.15, 0.06]],
        6 | 7 => [D65, [0.630, 0.340], [0.310, 0.595], [0.155, 0.070]],
        9 => [D65, [0.708, 0.292], [0.170, 0.797], [0.131, 0.046]],
        11 => [
            [0.314, 0.351],
            [0.680, 0.320],
            [0.265, 0.690],
            [0.150, 0.060],
        ],
        12 => [D65, [0.680, 0.320], [0.265, 0.690], [0.150, 0.060]],
        22 => [D65, [0.630, 0.340], [0.295, 0.605], [0.155, 0.077]],
        _ => {
            return Err("its color primaries are not supported (cICP): convert it to sRGB");
        }
    };
    // The parameters of a parametric curve, as in `SRGB_CURVE`. One parameter alone is an exponent.
    let curve = match transfer {
        1 | 6 | 14 | 15 => vec![1.0 / 0.45, 1.0 / 1.099, 0.099 / 1.099, 1.0 / 4.5, 0.081],
        4 => vec![2.2],
        5 => vec![2.8],
        8 => vec![1.0],
        13 => SRGB_CURVE.to_vec(),
        16 | 18 => return Err("its transfer function is HDR (PQ or HLG): convert it to sRGB"),
        _ => {
            return Err("its transfer function is not supported (cICP): convert it to sRGB");
        }
    };
    // Matrix 0 is RGB, and range 1 is full range. Other values are for video.
    if (matrix, range) != (0, 1) {
        return Err(VIDEO_COLORS);
    }
    rgb_profile(chromaticities, curve).ok_or(UNUSABLE_PROFILE)
}

/// The parametric curve of sRGB (IEC 61966-2-1), as the parameters g, a, b, c and d of ICC.1, 10.18.
const SRGB_CURVE: [f32; 5] = [2.4, 1.0 / 1.055, 0.055 / 1.055, 1.0 / 12.92, 0.04045];

/// The color space with this exponent, these chromaticities, or both. If one of them is missing or invalid, that of
/// sRGB is used. Returns `None` if both are, or if only the exponent is valid and it is that of sRGB.
fn from_gamma_and_chromaticities(
    gamma: Option<f32>,
    chromaticities: Option<Chromaticities>,
) -> Option<ColorProfile> {
    // Programs write the curve of sRGB as 1/2.2, or rounded as 0.45, because `gAMA` can hold only an exponent.
    let is_srgb_gamma = |gamma: f32| (gamma * 2.2 - 1.0).abs() < 0.011;
    let gamma = gamma.filter(|gamma| (0.1..=10.0).contains(gamma) && !is_srgb_gamma(*gamma));
    let curve = gamma.map_or_else(|| SRGB_CURVE.to_vec(), |gamma| vec![1.0 / gamma]);
    let profile =
        chromaticities.and_then(|chromaticities| rgb_profile(chromaticities, curve.clone()));
    if profile.is_none() && gamma.is_none() {
        return None;
    }
    profile.or_else(|| rgb_profile([D65, [0.64, 0.33], [0.30, 0.60], [0.15, 0.06]], curve))
}

/// An RGB color space. Returns `None` if the primaries are not possible.
fn rgb_profile([white, red, green, blue]: Chromaticities, curve: Vec<f32>) -> Option<ColorProfile> {
    // Twice the area of the triangle that the primaries span. It is 0 if they are on a line.
    let area = (green[0] - red[0]) * (blue[1] - red[1]) - (blue[0] - red[0]) * (green[1] - red[1]);
    if area.abs() < 0.001 || white[1] < 0.001 {
        return None;
    }
    let [white, red, green, blue] = [white, red, green, blue].map(|[x, y]| Chromaticity::new(x, y));
    let mut profile = ColorProfile::new_srgb();
    profile.update_rgb_colorimetry(white.to_xyyb(), ColorPrimaries { red, green, blue });
    let curve = Some(ToneReprCurve::Parametric(curve));
    profile.red_trc.clone_from(&curve);
    profile.green_trc.clone_from(&curve);
    profile.blue_trc = curve;
    let colorants = [
        profile.red_colorant,
        profile.green_colorant,
        profile.blue_colorant,
    ];
    (colorants.iter().all(|c| (c.x + c.y + c.z).is_finite())).then_some(profile)
}

/// Whether a profile is sRGB, whatever its name is: it changes no color of a coarse cube by more than one level. The
/// pixels of such images are not converted.
fn is_srgb(profile: &ColorProfile) -> bool {
    const LEVELS: [u8; 5] = [0, 64, 128, 192, 255];
    if profile.color_space != DataColorSpace::Rgb {
        return false;
    }
    let cube: Vec<u8> = (LEVELS.iter())
        .flat_map(|r| LEVELS.iter().flat_map(move |g| LEVELS.map(|b| [*r, *g, b])))
        .flatten()
        .collect();
    convert8(profile, Layout::Rgb, Layout::Rgb, &cube).is_some_and(|converted| {
        cube.iter()
            .zip(&converted)
            .all(|(a, b)| a.abs_diff(*b) <= 1)
    })
}

/// Converts gray or RGB pixels to sRGB, and keeps their bits per channel. Returns `None` if the profile cannot be
/// applied.
fn convert(pixels: DynamicImage, profile: &ColorProfile) -> Option<DynamicImage> {
    let (width, height, alpha) = (pixels.width(), pixels.height(), pixels.color().has_alpha());
    // A gray image may have an RGB profile. It is then converted as RGB.
    let is_gray_profile = profile.color_space == DataColorSpace::Gray;
    let from = match (is_gray_profile, alpha) {
        (true, true) => Layout::GrayAlpha,
        (true, false) => Layout::Gray,
        (false, true) => Layout::Rgba,
        (false, false) => Layout::Rgb,
    };
    let to = if alpha { Layout::Rgba } else { Layout::Rgb };
    let has_16_bits = matches!(
        pixels,
        DynamicImage::ImageLuma16(_)
            | DynamicImage::ImageLumaA16(_)
            | DynamicImage::ImageRgb16(_)
            | DynamicImage::ImageRgba16(_)
    );
    if has_16_bits {
        let samples = match from {
            Layout::Gray => pixels.into_luma16().into_raw(),
            Layout::GrayAlpha => pixels.into_luma_alpha16().into_raw(),
            Layout::Rgb => pixels.into_rgb16().into_raw(),
            _ => pixels.into_rgba16().into_raw(),
        };
        let samples = convert16(profile, from, to, &samples)?;
        return if alpha {
            ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageRgba16)
        } else {
            ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageRgb16)
        };
    }
    let samples = match from {
        Layout::Gray => pixels.into_luma8().into_raw(),
        Layout::GrayAlpha => pixels.into_luma_alpha8().into_raw(),
        Layout::Rgb => pixels.into_rgb8().into_raw(),
        _ => pixels.into_rgba8().into_raw(),
    };
    let samples = convert8(profile, from, to, &samples)?;
    if alpha {
        ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageRgba8)
    } else {
        ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageRgb8)
    }
}

/// Uses the curves of the ICC profile, and ignores cICP numbers inside the profile, because most programs do not know
/// them.
const OPTIONS: fn() -> TransformOptions = || TransformOptions {
    allow_use_cicp_transfer: false,
    ..TransformOptions::default()
};

fn convert8(profile: &ColorProfile, from: Layout, to: Layout, samples: &[u8]) -> Option<Vec<u8>> {
    let mut out = buffer(samples.len() / from.channels() * to.channels());
    profile
        .create_transform_8bit(from, &ColorProfile::new_srgb(), to, OPTIONS())
        .and_then(|transform| transform.transform(samples, &mut out))
        .ok()
        .map(|()| out)
}

fn convert16(
    profile: &ColorProfile,
    from: Layout,
    to: Layout,
    samples: &[u16],
) -> Option<Vec<u16>> {
    let mut out = buffer(samples.len() / from.channels() * to.channels());
    profile
        .create_transform_16bit(from, &ColorProfile::new_srgb(), to, OPTIONS())
        .and_then(|transform| transform.transform(samples, &mut out))
        .ok()
        .map(|()| out)
}

/// Converts CMYK without a profile, as if the inks were ideal and the paper white.
fn cmyk_to_rgb(samples: &[u8]) -> Vec<u8> {
    let pixels = samples.as_chunks::<4>().0.iter();
    pixels
        .flat_map(|[cyan, magenta, yellow, black]| {
            [cyan, magenta, yellow].map(|ink| {
                let light = u16::from(255 - ink) * u16::from(255 - black);
                ((light + 127) / 255).to_le_bytes()[0]
            })
        })
        .collect()
}

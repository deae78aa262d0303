//! What may be said about a rendition: what becomes of a picture that has not the shape or size asked for, and how it is
//! written down. Sizes are not said here: they follow from the ratio ([`super::pixels`]).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Format, ImageRequest, Pixels, pixels};

/// How a rendition is made of an original, where that is left to the customer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rendering {
    pub fit: Fit,
    /// Whether more than 5 % may be cropped away.
    pub allow_crop: bool,
    /// Whether it may be enlarged by more than 5 %.
    pub allow_upscale: bool,
    /// Whether what was made smaller is sharpened a little.
    pub sharpen: bool,
    pub encoding: Encoding,
}

/// What becomes of a picture whose shape is not the one asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// It fills the whole size, and what juts out is cropped.
    #[default]
    Cover,
    /// All of it is shown, and the rest is padded.
    Contain,
    /// It is neither cropped nor padded: another shape is an error.
    Strict,
}

/// How the pixels are written down. What the format does not know is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Encoding {
    /// 1 to 100, of JPEG and lossy WebP; the format's own default where none is said.
    pub quality: Option<u8>,
    /// Whether a JPEG shows a coarse picture first.
    pub progressive: bool,
    /// Of JPEG.
    pub chroma: Chroma,
    /// Whether WebP keeps every pixel as it is.
    pub lossless: bool,
}

/// How much of the colour a JPEG keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum Chroma {
    /// One colour for four pixels: what the eye does not miss in photographs.
    #[default]
    #[serde(rename = "4:2:0")]
    Quarter,
    /// Every pixel's own: for lettering and hard coloured edges.
    #[serde(rename = "4:4:4")]
    Full,
}

/// All a render_pool must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    pub target: Pixels,
    pub format: Format,
    pub rendering: Rendering,
}

impl ImageRequest {
    pub fn recipe(&self) -> Recipe {
        Recipe {
            target: pixels(self.aspect_ratio, self.size),
            format: self.format,
            rendering: self.rendering,
        }
    }
}

//! How renditions are made from originals: what to do if the original has another shape or size,
//! and how to encode the result. The pixels follow from the size and the aspect ratio
//! ([`super::pixels`]).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Format, ImageRequest, Pixels, pixels};

/// The customer's choices for making a rendition from an original.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rendering {
    /// What to do if the original has another shape.
    pub fit: Fit,
    /// Whether more than 5 % of the original may be cropped.
    pub allow_crop: bool,
    /// Whether the original may be enlarged by more than 5 %.
    pub allow_upscale: bool,
    /// Whether an image that was made smaller is sharpened slightly.
    pub sharpen: bool,
    /// How the file is encoded.
    pub encoding: Encoding,
}

/// What to do if the model's image has another shape than requested.
///
/// - `cover`: fill the whole size and crop what is outside.
/// - `contain`: show the whole image and pad the rest.
/// - `strict`: neither crop nor pad; another shape is an error.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Fill the whole size and crop what is outside.
    #[default]
    Cover,
    /// Show the whole image and pad the rest.
    Contain,
    /// Neither crop nor pad: another shape is an error.
    Strict,
}

/// How a file is encoded. A field that does not apply to the format is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Encoding {
    /// Quality of JPEG and of lossy WebP, 1 to 100. `None`: the format's default.
    pub quality: Option<u8>,
    /// Whether a JPEG is progressive: it shows a coarse image before it is loaded completely.
    pub progressive: bool,
    /// How much colour a JPEG keeps.
    pub chroma: Chroma,
    /// Whether WebP keeps every pixel exactly.
    pub lossless: bool,
}

/// How much colour a JPEG keeps.
///
/// - `4:2:0`: one colour for four pixels. The loss is hardly visible in photographs.
/// - `4:4:4`: a colour for every pixel, for text and sharp coloured edges. The file is larger.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    strum::VariantArray,
)]
pub enum Chroma {
    /// One colour for four pixels. The loss is hardly visible in photographs.
    #[default]
    #[serde(rename = "4:2:0")]
    Quarter,
    /// A colour for every pixel: for text and sharp coloured edges. The file is larger.
    #[serde(rename = "4:4:4")]
    Full,
}

/// All that is needed to make a rendition from an original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Exact size of the rendition.
    pub target: Pixels,
    /// Encoding of the rendition.
    pub format: Format,
    /// The customer's choices.
    pub rendering: Rendering,
}

impl ImageRequest {
    /// How the renditions of this request are made.
    pub fn recipe(&self) -> Recipe {
        Recipe {
            target: pixels(self.aspect_ratio, self.size),
            format: self.format,
            rendering: self.rendering,
        }
    }
}

//! A request for pictures, and what "1K" and "2K" mean: one pixel table for every provider.

mod rendering;

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Violation;
use crate::catalog::Model;
use crate::id::UploadId;
use crate::visible;

pub use rendering::{Chroma, Encoding, Fit, Recipe, Rendering};

/// Longest prompt and longest art direction, in characters.
pub const MAX_TEXT: usize = 8_000;
/// Largest single input picture, in bytes (Vertex AI's own limit for inline files).
pub const MAX_INPUT_BYTES: usize = 7 * 1024 * 1024;
/// Largest sum of all input pictures of a job, in bytes.
pub const MAX_INPUTS_BYTES: usize = 20 * 1024 * 1024;
/// Longest side of a picture that is opened, and its most pixels: what decoding it may cost.
pub const MAX_SIDE: u32 = 16_384;
pub const MAX_PIXELS: u64 = 64_000_000;
/// Most pictures one job may ask for.
pub const MAX_OUTPUTS: u32 = 4;

/// A validated request for pictures, as it is stored with its job.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRequest {
    pub prompt: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub art_direction: Option<String>,
    #[serde(default)]
    pub inputs: Vec<Input>,
    pub aspect_ratio: AspectRatio,
    pub size: Size,
    pub outputs: u32,
    pub format: Format,
    #[serde(default)]
    pub rendering: Rendering,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i32>,
}

/// Without the prompt and the art direction: they are personal and never printed.
impl fmt::Debug for ImageRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageRequest")
            .field("inputs", &self.inputs)
            .field("aspect_ratio", &self.aspect_ratio)
            .field("size", &self.size)
            .field("outputs", &self.outputs)
            .field("format", &self.format)
            .field("rendering", &self.rendering)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// A picture the tenant gave us, kept in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The upload it is; `None` for one that was sent along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadId>,
    pub object_key: String,
    pub media_type: MediaType,
    pub role: InputRole,
    pub sha256: String,
    pub bytes: u64,
}

/// What an input picture is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InputRole {
    /// The thing to be shown.
    Product,
    /// The person to be shown.
    ModelReference,
    /// How it should look.
    Style,
    /// The picture to be changed.
    Source,
}

impl InputRole {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Product => "product",
            Self::ModelReference => "model_reference",
            Self::Style => "style",
            Self::Source => "source",
        }
    }
}

/// Encoding of a picture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum MediaType {
    #[serde(rename = "image/png")]
    Png,
    #[serde(rename = "image/jpeg")]
    Jpeg,
    #[serde(rename = "image/webp")]
    Webp,
}

impl MediaType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }

    /// What the names of such files end with, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Png, Self::Jpeg, Self::Webp]
            .into_iter()
            .find(|media_type| media_type.as_str() == text)
    }
}

/// Encoding a rendition is delivered in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    #[default]
    Png,
    Jpeg,
    Webp,
}

impl Format {
    pub fn media_type(self) -> MediaType {
        match self {
            Self::Png => MediaType::Png,
            Self::Jpeg => MediaType::Jpeg,
            Self::Webp => MediaType::Webp,
        }
    }

    pub fn extension(self) -> &'static str {
        self.media_type().extension()
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::Webp => "WebP",
        })
    }
}

/// How large a picture is made; the pixels follow from the ratio ([`pixels`]).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
pub enum Size {
    #[default]
    #[serde(rename = "1K")]
    OneK,
    #[serde(rename = "2K")]
    TwoK,
}

impl Size {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OneK => "1K",
            Self::TwoK => "2K",
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! ratios {
    ($($name:ident $text:literal $width:literal $height:literal,)*) => {
        /// Width to height.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum AspectRatio {
            #[default]
            $(#[serde(rename = $text)] $name,)*
        }

        impl AspectRatio {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// Width and height in pixels at 1K.
            fn one_k(self) -> (u32, u32) {
                match self {
                    $(Self::$name => ($width, $height),)*
                }
            }
        }
    };
}

// The Gemini 3 family's own sizes; the four extreme ratios are not confirmed by Google's pages.
ratios! {
    Square "1:1" 1024 1024,
    R2x3 "2:3" 848 1264,
    R3x2 "3:2" 1264 848,
    R3x4 "3:4" 896 1200,
    R4x3 "4:3" 1200 896,
    R4x5 "4:5" 928 1152,
    R5x4 "5:4" 1152 928,
    R9x16 "9:16" 768 1376,
    R16x9 "16:9" 1376 768,
    R21x9 "21:9" 1584 672,
    R1x4 "1:4" 512 2048,
    R4x1 "4:1" 2048 512,
    R1x8 "1:8" 384 3072,
    R8x1 "8:1" 3072 384,
}

impl fmt::Display for AspectRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Width and height of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pixels {
    pub width: u32,
    pub height: u32,
}

impl fmt::Display for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}", self.width, self.height)
    }
}

/// What a size means for a ratio, exactly, whichever provider makes the picture.
pub fn pixels(ratio: AspectRatio, size: Size) -> Pixels {
    let scale = match size {
        Size::OneK => 1,
        Size::TwoK => 2,
    };
    let (width, height) = ratio.one_k();
    Pixels {
        width: width * scale,
        height: height * scale,
    }
}

impl ImageRequest {
    /// Everything this model cannot do, or nothing.
    pub fn violations(&self, model: &Model) -> Vec<Violation> {
        let mut found = Vec::new();
        if visible::is_blank(&self.prompt) {
            found.push(Violation::new(
                "/prompt",
                "Nothing of the prompt can be seen: say what the picture should show.",
            ));
        }
        for (pointer, text) in [
            ("/prompt", Some(&self.prompt)),
            ("/art_direction", self.art_direction.as_ref()),
        ] {
            let length = text.map_or(0, |text| text.chars().count());
            if length > MAX_TEXT {
                found.push(Violation::new(
                    pointer,
                    format!("{length} characters are too many: at most {MAX_TEXT}"),
                ));
            }
        }
        if self.outputs < 1 || self.outputs > model.max_outputs {
            found.push(Violation::new(
                "/outputs",
                format!(
                    "{} makes 1 to {} pictures a job",
                    model.id, model.max_outputs
                ),
            ));
        }
        if !model.sizes.contains(&self.size) {
            let sizes: Vec<&str> = model.sizes.iter().map(|size| size.as_str()).collect();
            found.push(Violation::new(
                "/size",
                format!(
                    "{} makes {}, not {}",
                    model.id,
                    sizes.join(" and "),
                    self.size
                ),
            ));
        }
        if !model.ratios.contains(&self.aspect_ratio) {
            let ratios: Vec<&str> = model.ratios.iter().map(|ratio| ratio.as_str()).collect();
            found.push(Violation::new(
                "/aspect_ratio",
                format!(
                    "{} knows {}, not {}",
                    model.id,
                    ratios.join(", "),
                    self.aspect_ratio
                ),
            ));
        }
        if self.inputs.len() > model.max_inputs {
            found.push(Violation::new(
                "/inputs",
                format!(
                    "{} takes at most {} pictures, not {}",
                    model.id,
                    model.max_inputs,
                    self.inputs.len()
                ),
            ));
        }
        for (number, input) in self.inputs.iter().enumerate() {
            let most = u64::try_from(model.max_input_bytes).unwrap_or(u64::MAX);
            if input.bytes > most {
                let field = if input.upload.is_some() {
                    "upload"
                } else {
                    "data"
                };
                found.push(Violation::new(
                    format!("/inputs/{number}/{field}"),
                    format!("{} takes pictures of at most {most} bytes", model.id),
                ));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pixel_table_is_the_one_that_is_promised() {
        let check =
            |ratio, size, width, height| assert_eq!(pixels(ratio, size), Pixels { width, height });
        check(AspectRatio::R4x5, Size::TwoK, 1856, 2304);
        check(AspectRatio::R4x5, Size::OneK, 928, 1152);
        check(AspectRatio::Square, Size::TwoK, 2048, 2048);
        check(AspectRatio::R21x9, Size::TwoK, 3168, 1344);
        check(AspectRatio::R9x16, Size::OneK, 768, 1376);
    }

    #[test]
    fn every_ratio_is_as_wide_as_it_says() {
        for &ratio in AspectRatio::ALL {
            let (w, h) = ratio.as_str().split_once(':').unwrap();
            let said = w.parse::<f64>().unwrap() / h.parse::<f64>().unwrap();
            let Pixels { width, height } = pixels(ratio, Size::OneK);
            let is = f64::from(width) / f64::from(height);
            assert!((is / said - 1.0).abs() < 0.02, "{ratio}: {width}×{height}");
        }
    }
}

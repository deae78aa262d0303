//! Requests for images, and the sizes in pixels: one table for all providers.

mod rendering;

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::UploadId;

pub use rendering::{Chroma, Encoding, Fit, Recipe, Rendering};

/// Longest prompt and longest art direction, in characters.
pub const MAX_TEXT: usize = 8_000;
/// Largest single input image, in bytes. It is Vertex AI's limit for inline files.
pub const MAX_INPUT_BYTES: usize = 7 * 1024 * 1024;
/// Largest sum of all input images of a job, in bytes.
pub const MAX_INPUTS_BYTES: usize = 20 * 1024 * 1024;
/// Longest side of an image that is decoded, in pixels. With [`MAX_PIXELS`] it limits the memory of
/// decoding.
pub const MAX_SIDE: u32 = 16_384;
/// Most pixels of an image that is decoded.
pub const MAX_PIXELS: u64 = 64_000_000;
/// Most outputs that one job may ask for.
pub const MAX_OUTPUTS: u32 = 4;

/// A validated request for images, as it is stored with its job.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRequest {
    /// What the image should show. Personal: never logged.
    pub prompt: String,
    /// How the image should look, apart from what it shows. Personal: never logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub art_direction: Option<String>,
    /// Images to work from.
    #[serde(default)]
    pub inputs: Vec<Input>,
    /// Width to height.
    pub aspect_ratio: AspectRatio,
    /// How large.
    pub size: Size,
    /// How many images.
    pub outputs: u32,
    /// Encoding of the renditions.
    pub format: Format,
    /// How renditions are made from originals.
    #[serde(default)]
    pub rendering: Rendering,
    /// The same seed makes similar images, if the model accepts one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i32>,
}

/// Leaves out the prompt and the art direction: they are personal and must not get into logs.
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

/// An image that the tenant sent. It is stored in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The upload. `None` if the file was sent in the request itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadId>,
    /// Key of the file in the bucket.
    pub object_key: String,
    /// Encoding of the file.
    pub media_type: MediaType,
    /// What the model uses it for.
    pub role: InputRole,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Size of the file, in bytes.
    pub bytes: u64,
}

/// What the model uses an input image for.
///
/// - `product`: it shows the thing that the result should show.
/// - `model_reference`: it shows the person that the result should show.
/// - `style`: it shows how the result should look.
/// - `source`: it is the image to change.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum InputRole {
    /// It shows the thing that the result should show.
    Product,
    /// It shows the person that the result should show.
    ModelReference,
    /// It shows how the result should look.
    Style,
    /// It is the image to change.
    Source,
}

impl InputRole {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Encoding of an image file.
///
/// - `image/png`: every pixel exactly, with transparency.
/// - `image/jpeg`: small files with losses, without transparency.
/// - `image/webp`: small files with or without losses, with transparency.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    strum::EnumString,
    strum::IntoStaticStr,
)]
pub enum MediaType {
    /// PNG: every pixel exactly, with transparency.
    #[serde(rename = "image/png")]
    #[strum(serialize = "image/png")]
    Png,
    /// JPEG: small files with losses, without transparency.
    #[serde(rename = "image/jpeg")]
    #[strum(serialize = "image/jpeg")]
    Jpeg,
    /// WebP: small files with or without losses, with transparency.
    #[serde(rename = "image/webp")]
    #[strum(serialize = "image/webp")]
    Webp,
}

impl MediaType {
    /// The name in HTTP headers, in the database and in the API.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Extension of file names, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
        }
    }
}

/// Encoding of the delivered images.
///
/// - `png`: every pixel exactly, with transparency.
/// - `jpeg`: small files with losses, without transparency.
/// - `webp`: small files with or without losses, with transparency.
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
pub enum Format {
    /// PNG: every pixel exactly, with transparency.
    #[default]
    Png,
    /// JPEG: small files with losses, without transparency.
    Jpeg,
    /// WebP: small files with or without losses, with transparency.
    Webp,
}

impl Format {
    /// The media type of such a file.
    pub fn media_type(self) -> MediaType {
        match self {
            Self::Png => MediaType::Png,
            Self::Jpeg => MediaType::Jpeg,
            Self::Webp => MediaType::Webp,
        }
    }

    /// Extension of file names, without the dot.
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

/// Size of an image. The exact pixels follow from the aspect ratio; `GET /v1/models` has the table.
///
/// - `1K`: about one megapixel, 1024 × 1024 if the image is square.
/// - `2K`: twice the width and height of `1K`.
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
    strum::IntoStaticStr,
    strum::VariantArray,
)]
pub enum Size {
    /// About one megapixel: 1024 × 1024 if the image is square.
    #[default]
    #[serde(rename = "1K")]
    #[strum(serialize = "1K")]
    OneK,
    /// Twice the width and height of 1K: 2048 × 2048 if the image is square.
    #[serde(rename = "2K")]
    #[strum(serialize = "2K")]
    TwoK,
}

impl Size {
    /// The name in the catalogue and in the API.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! ratios {
    ($($name:ident $text:literal $width:literal $height:literal,)*) => {
        /// Aspect ratio of an image, width to height. `1:1` is square; `16:9` is wider than high.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum AspectRatio {
            #[default]
            $(
                #[doc = concat!("Width to height as ", $text, ".")]
                #[serde(rename = $text)]
                $name,
            )*
        }

        impl AspectRatio {
            /// Every ratio.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name in the catalogue and in the API, such as `4:5`.
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

// Name, text, and width and height at 1K. These are the native sizes of the Gemini 3 models.
// Google's pages do not confirm the last four.
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

/// Width and height of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pixels {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

impl fmt::Display for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}", self.width, self.height)
    }
}

/// The exact size of a rendition in pixels. It is the same for every provider.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_pixels_are_as_documented() {
        let check =
            |ratio, size, width, height| assert_eq!(pixels(ratio, size), Pixels { width, height });
        check(AspectRatio::R4x5, Size::TwoK, 1856, 2304);
        check(AspectRatio::R4x5, Size::OneK, 928, 1152);
        check(AspectRatio::Square, Size::TwoK, 2048, 2048);
        check(AspectRatio::R21x9, Size::TwoK, 3168, 1344);
        check(AspectRatio::R9x16, Size::OneK, 768, 1376);
    }

    #[test]
    fn every_size_has_the_shape_of_its_ratio() {
        for &ratio in AspectRatio::ALL {
            let (w, h) = ratio.as_str().split_once(':').unwrap();
            let expected = w.parse::<f64>().unwrap() / h.parse::<f64>().unwrap();
            let Pixels { width, height } = pixels(ratio, Size::OneK);
            let actual = f64::from(width) / f64::from(height);
            assert!(
                (actual / expected - 1.0).abs() < 0.02,
                "{ratio}: {width}×{height}"
            );
        }
    }
}

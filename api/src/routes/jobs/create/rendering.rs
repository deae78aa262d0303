//! The fields of a job about its renditions: how they are fitted to the size, and how they are encoded.

use domain::generation::image::{Chroma, Encoding, Fit, Format, Rendering};
use serde::Deserialize;
use strum::VariantArray;
use utoipa::ToSchema;
use utoipa::openapi::schema::Schema;

use super::violations::{Violations, words_schema};

/// Choices of the output format. A choice that the format does not have is refused.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EncodingBody {
    /// Only for JPEG and lossy WebP: the quality. If it is missing, JPEG uses 90 and WebP 85.
    #[schema(minimum = 1, maximum = 100)]
    quality: Option<u8>,
    /// Only for JPEG: whether a coarse image can be shown before the file is loaded completely.
    progressive: Option<bool>,
    #[schema(schema_with = chroma_schema)]
    chroma_subsampling: Option<String>,
    /// Only for WebP: whether every pixel is kept exactly.
    lossless: Option<bool>,
}

/// The other fields of the body about renditions, as [`CreateJob`](super::draft::CreateJob) describes them.
pub(super) struct RenderingFields {
    pub fit: Option<String>,
    pub allow_crop: bool,
    pub allow_upscale: bool,
    pub sharpen: bool,
}

/// Parses the fields about renditions, and adds everything that is wrong with them to `violations`.
pub(super) fn read(
    violations: &mut Violations,
    fields: RenderingFields,
    encoding: Option<EncodingBody>,
    format: Format,
) -> Rendering {
    let body = encoding.unwrap_or_default();
    let lossless = body.lossless.unwrap_or_default();
    let (jpeg, webp) = (format == Format::Jpeg, format == Format::Webp);
    // `formats_have` says which formats have the choice: the error goes on with "it".
    for (is_present, is_supported, name, formats_have) in [
        (
            body.quality.is_some(),
            jpeg || webp && !lossless,
            "quality",
            "JPEG and lossy WebP have",
        ),
        (body.progressive.is_some(), jpeg, "progressive", "JPEG has"),
        (
            body.chroma_subsampling.is_some(),
            jpeg,
            "chroma_subsampling",
            "JPEG has",
        ),
        (body.lossless.is_some(), webp, "lossless", "WebP has"),
    ] {
        if is_present && !is_supported {
            violations.add(
                format!("/encoding/{name}"),
                format!("{format} has no such choice: only {formats_have} it. Leave it out, or use another format."),
            );
        }
    }
    if body
        .quality
        .is_some_and(|quality| !(1..=100).contains(&quality))
    {
        violations.add("/encoding/quality", "A whole number from 1 to 100.");
    }
    Rendering {
        fit: violations.choice_or_default("/fit", fields.fit, Fit::VARIANTS),
        allow_crop: fields.allow_crop,
        allow_upscale: fields.allow_upscale,
        sharpen: fields.sharpen,
        encoding: Encoding {
            quality: body.quality,
            progressive: body.progressive.unwrap_or_default(),
            chroma: violations.choice_or_default(
                "/encoding/chroma_subsampling",
                body.chroma_subsampling,
                Chroma::VARIANTS,
            ),
            lossless,
        },
    }
}

pub(super) fn fit_schema() -> Schema {
    let description = "What to do with an image whose aspect ratio is not the requested one. `cover`: fill the size and crop the rest. `contain`: show the whole image and pad it. `strict`: refuse it.";
    words_schema(description, Fit::VARIANTS, Some(&Fit::default()))
}

fn chroma_schema() -> Schema {
    let description = "Only JPEG: how much of the colour is kept. `4:2:0`: a quarter of it, for photos. `4:4:4`: all of it, for lettering and hard edges.";
    words_schema(description, Chroma::VARIANTS, Some(&Chroma::default()))
}

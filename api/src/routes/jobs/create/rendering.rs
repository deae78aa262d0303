//! How a rendition is made, where a client says so: what becomes of another shape, and how it is written down.

use common::generation::image::{Chroma, Encoding, Fit, Format, Rendering};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::Schema;

use super::violations::{Violations, words};

const FITS: [Fit; 3] = [Fit::Cover, Fit::Contain, Fit::Strict];
const CHROMAS: [Chroma; 2] = [Chroma::Quarter, Chroma::Full];

/// What the picture should be made of, beside its size. What a format does not know is refused.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EncodingBody {
    /// Of JPEG (90 when missing) and of WebP with losses (85).
    #[schema(minimum = 1, maximum = 100)]
    quality: Option<u8>,
    /// Of JPEG: a coarse picture first.
    progressive: Option<bool>,
    #[schema(schema_with = chromas)]
    chroma_subsampling: Option<String>,
    /// Of WebP: every pixel as it is.
    lossless: Option<bool>,
}

/// What is said in the body, apart from the encoding.
pub(super) struct RenderingFields {
    pub fit: Option<String>,
    pub allow_crop: bool,
    pub allow_upscale: bool,
    pub sharpen: bool,
}

/// Everything wrong with it is found.
pub(super) fn read(
    found: &mut Violations,
    said: RenderingFields,
    encoding: Option<EncodingBody>,
    format: Format,
) -> Rendering {
    let body = encoding.unwrap_or_default();
    let lossless = body.lossless.unwrap_or_default();
    let (jpeg, webp) = (format == Format::Jpeg, format == Format::Webp);
    for (is_said, is_known, name, whose) in [
        (
            body.quality.is_some(),
            jpeg || webp && !lossless,
            "quality",
            "JPEG, and WebP with losses, have",
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
        if is_said && !is_known {
            found.add(
                format!("/encoding/{name}"),
                format!("{format} knows no such choice: {whose} it. Leave it out, or take another format."),
            );
        }
    }
    if body
        .quality
        .is_some_and(|quality| !(1..=100).contains(&quality))
    {
        found.add("/encoding/quality", "A whole number from 1 to 100.");
    }
    Rendering {
        fit: found.choice("/fit", said.fit, &FITS),
        allow_crop: said.allow_crop,
        allow_upscale: said.allow_upscale,
        sharpen: said.sharpen,
        encoding: Encoding {
            quality: body.quality,
            progressive: body.progressive.unwrap_or_default(),
            chroma: found.choice(
                "/encoding/chroma_subsampling",
                body.chroma_subsampling,
                &CHROMAS,
            ),
            lossless,
        },
    }
}

pub(super) fn fits() -> Schema {
    let description = "What becomes of a picture whose shape is not the one asked for: it fills the size and what juts out is cropped; it is shown whole and padded; or that is an error.";
    words(description, &FITS, Some(&Fit::default()))
}

fn chromas() -> Schema {
    let description =
        "Of JPEG: how much of the colour is kept. 4:4:4 for lettering and hard edges.";
    words(description, &CHROMAS, Some(&Chroma::default()))
}

//! Builds requests to OpenAI images. A request without input images is JSON, and a request with
//! input images is a multipart form.

use std::cmp::Ordering;
use std::sync::Arc;

use common::memory::{MemoryPermit, with_permit};
use domain::catalog::Model;
use domain::generation::image::{AspectRatio, MediaType, Pixels, Size, pixels};
use domain::outcome::{Class, Failure};
use reqwest::multipart::{self, Form};
use serde_json::{Map, Value};

use super::wire::Part;
use crate::providers::CallRequest;

/// The body of a request.
pub(in crate::providers) enum Body {
    /// The fields of a JSON object, for an image from a prompt.
    Generation(Map<String, Value>),
    /// The parts of a form, for an image from a prompt and input images.
    Edit(Vec<Part>),
}

impl Body {
    /// Builds the body. It shares the files of the input images, and does not copy them.
    pub(in crate::providers) fn from_request(request: &CallRequest<'_>) -> Self {
        let fields = fields(request);
        if request.inputs.is_empty() {
            return Self::Generation(fields);
        }
        let texts = fields.into_iter().map(|(name, value)| Part::Text {
            name,
            text: match value {
                Value::String(text) => text,
                other => other.to_string(),
            },
        });
        let images = request.inputs.iter().enumerate();
        let files = images.map(|(index, input)| Part::File {
            name: "image[]",
            file_name: format!("input-{index}.{}", extension(input.media_type)),
            media_type: input.media_type,
            bytes: input.bytes.clone(),
        });
        Self::Edit(texts.chain(files).collect())
    }

    pub(super) fn path(&self) -> &'static str {
        match self {
            Self::Generation(_) => "/v1/images/generations",
            Self::Edit(_) => "/v1/images/edits",
        }
    }
}

/// The fields that both kinds of requests have. The catalogue's `extra` fields come last, and
/// replace fields of the same name.
fn fields(request: &CallRequest<'_>) -> Map<String, Value> {
    let Pixels { width, height } =
        nearest_pixels(request.model, request.aspect_ratio, request.size);
    let mut fields = Map::new();
    fields.insert("model".to_owned(), request.model.name.clone().into());
    fields.insert("prompt".to_owned(), prompt(request).into());
    fields.insert("n".to_owned(), 1.into());
    fields.insert("size".to_owned(), format!("{width}x{height}").into());
    fields.insert("output_format".to_owned(), "png".into());
    if let Some(seed) = request.seed {
        fields.insert("seed".to_owned(), seed.into());
    }
    fields.extend(request.model.extra.clone());
    fields
}

/// The text of the prompt. The API has a single text field, so the art direction goes before the
/// tenant's prompt, and the roles of the input images go after it.
fn prompt(request: &CallRequest<'_>) -> String {
    let mut paragraphs: Vec<String> = Vec::new();
    paragraphs.extend(request.art_direction.map(ToOwned::to_owned));
    paragraphs.push(request.prompt.to_owned());
    let roles: Vec<String> = (1..)
        .zip(&request.inputs)
        .map(|(number, input)| {
            let role = input.caption().trim_end_matches(':');
            format!("Picture {number}: {role}")
        })
        .collect();
    if !roles.is_empty() {
        paragraphs.push(roles.join("\n"));
    }
    paragraphs.join("\n\n")
}

/// The pixels to request. A model that lists its sizes gets the size nearest in shape. Of several
/// sizes with the same shape, it gets the smallest that is large enough, else the largest. Any
/// other model gets the exact pixels.
fn nearest_pixels(model: &Model, ratio: AspectRatio, size: Size) -> Pixels {
    let wanted = pixels(ratio, size);
    // On a logarithmic scale 2:1 and 1:2 are equally far from a square.
    let shape = |pixels: &Pixels| (f64::from(pixels.width) / f64::from(pixels.height)).ln();
    let area = |pixels: &Pixels| u64::from(pixels.width) * u64::from(pixels.height);
    let shape_distance = |pixels: &Pixels| (shape(pixels) - shape(&wanted)).abs();
    let is_too_small = |pixels: &Pixels| area(pixels) < area(&wanted);
    let by_distance = |one: &&Pixels, other: &&Pixels| -> Ordering {
        let area_distance = |pixels: &Pixels| area(pixels).abs_diff(area(&wanted));
        (shape_distance(one).total_cmp(&shape_distance(other)))
            .then_with(|| is_too_small(one).cmp(&is_too_small(other)))
            .then_with(|| area_distance(one).cmp(&area_distance(other)))
    };
    model
        .pixels
        .iter()
        .min_by(by_distance)
        .copied()
        .unwrap_or(wanted)
}

fn extension(media_type: MediaType) -> &'static str {
    match media_type {
        MediaType::Png => "png",
        MediaType::Jpeg => "jpg",
        MediaType::Webp => "webp",
    }
}

/// The multipart form. The memory permit is held until the last file is sent.
///
/// # Errors
///
/// Returns an error if a media type cannot be written. None of our media types causes that.
pub(super) fn form(parts: Vec<Part>, permit: Option<MemoryPermit>) -> Result<Form, Failure> {
    let permit = permit.map(Arc::new);
    parts.into_iter().try_fold(Form::new(), |form, part| {
        Ok(match part {
            Part::Text { name, text } => form.text(name, text),
            Part::File {
                name,
                file_name,
                media_type,
                bytes,
            } => {
                let length = bytes.len() as u64;
                let bytes = with_permit(bytes, permit.clone());
                let file = multipart::Part::stream_with_length(bytes, length)
                    .file_name(file_name)
                    .mime_str(media_type.as_str())
                    .map_err(|error| Failure::new(Class::Internal, error.to_string()))?;
                form.part(name, file)
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::golden;

    #[test]
    fn the_nearest_shape_that_is_large_enough_is_requested() {
        let catalog = golden::catalog();
        let mut model = catalog.get("gpt-image-2").unwrap().clone();
        let requested = |model: &Model, ratio, of| {
            let Pixels { width, height } = nearest_pixels(model, ratio, of);
            (width, height)
        };
        assert_eq!(
            requested(&model, AspectRatio::R4x5, Size::TwoK),
            (1856, 2304)
        );
        let sides = [
            (512, 512),
            (1024, 1024),
            (2048, 2048),
            (512, 768),
            (1024, 1536),
            (1536, 1024),
        ];
        model.pixels = Vec::from(sides.map(|(width, height)| Pixels { width, height }));
        for (ratio, of, expected) in [
            (AspectRatio::Square, Size::OneK, (1024, 1024)),
            (AspectRatio::Square, Size::TwoK, (2048, 2048)),
            (AspectRatio::R2x3, Size::OneK, (1024, 1536)),
            (AspectRatio::R2x3, Size::TwoK, (1024, 1536)),
            (AspectRatio::R9x16, Size::OneK, (1024, 1536)),
            (AspectRatio::R21x9, Size::OneK, (1536, 1024)),
        ] {
            assert_eq!(requested(&model, ratio, of), expected, "{ratio} {of}");
        }
    }
}

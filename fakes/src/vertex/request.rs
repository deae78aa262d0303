//! A request, checked as Google checks it and reduced to what the picture needs.

use super::{
    answer::ApiError,
    catalog::Model,
    faults,
    picture::Input,
    schema,
    wire::{Blob, Content, OutputOptions, Part, Request},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use image::{DynamicImage, ImageFormat};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// How many pictures one prompt may bring.
const MOST_INPUTS: usize = 14;
/// How large one inline picture may be.
const MOST_INPUT_BYTES: usize = 7 * 1024 * 1024;
/// Pictures nobody captioned: so many are taken for products, the others for references.
const MOST_UNCAPTIONED_PRODUCTS: usize = 3;

/// A valid request.
pub(super) struct Ask {
    pub(super) model: &'static Model,
    /// The user's words, without the captions of pictures.
    pub(super) prompt: String,
    pub(super) inputs: Vec<Input>,
    pub(super) wants_picture: bool,
    pub(super) wants_text: bool,
    pub(super) wants_thoughts: bool,
    pub(super) ratio: &'static str,
    pub(super) size: String,
    pub(super) pixels: (u32, u32),
    pub(super) format: Format,
    /// Decides everything about the picture that the fields above leave open.
    pub(super) dice: [u8; 32],
    /// Tokens of all text in the request, at Google's rule of thumb of four characters each.
    pub(super) text_tokens: u32,
}

/// The encoding asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Format {
    Png,
    Jpeg { quality: u8 },
}

impl Format {
    pub(super) fn mime_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg { .. } => "image/jpeg",
        }
    }
}

impl Ask {
    /// Reads a body for `model`, as version `v1` or `v1beta1` of the protocol.
    pub(super) fn read(
        model: &'static Model,
        version: &str,
        body: &Value,
    ) -> Result<Self, ApiError> {
        let body = schema::read_request(version, body).map_err(ApiError::invalid)?;
        let request: Request = serde_json::from_value(body.clone())
            .map_err(|error| ApiError::invalid(format!("Invalid JSON payload: {error}")))?;
        check_labels(&request.labels)?;
        check_contents(model, &request.contents)?;
        if request.model_armor_config.is_some() && !request.safety_settings.is_empty() {
            return Err(ApiError::invalid(
                "Safety settings must not be set when model_armor_config is set.",
            ));
        }

        let config = &request.generation_config;
        if config.candidate_count.is_some_and(|count| count != 1) {
            return Err(ApiError::invalid(
                "Multiple candidates is not enabled for this model",
            ));
        }
        let (prompt, inputs) = read_parts(&request.contents)?;
        let image = &config.image_config;
        let size = match &image.image_size {
            Some(size) => size.clone(),
            None => model.sizes[0].0.to_owned(),
        };
        if model.tokens(&size).is_none() {
            return Err(ApiError::invalid(format!(
                "Image size {size} is not supported by {}.",
                model.id
            )));
        }
        let ratio = match &image.aspect_ratio {
            Some(wanted) => model
                .ratios()
                .find(|ratio| ratio == wanted)
                .ok_or_else(|| {
                    let known: Vec<_> = model.ratios().collect();
                    ApiError::invalid(format!(
                        "aspect_ratio must be one of {}, got {wanted}.",
                        known.join(", ")
                    ))
                })?,
            None => inputs.first().map_or("1:1", |input| {
                model.nearest_ratio((input.picture.width(), input.picture.height()))
            }),
        };
        let pixels = model
            .pixels(ratio, &size)
            .ok_or_else(|| ApiError::invalid("Unsupported image configuration."))?;
        let wants =
            |modality: &str| (config.response_modalities.iter()).any(|asked| asked == modality);
        Ok(Self {
            model,
            wants_picture: wants("IMAGE"),
            // Left out, the modalities mean text alone: an image has to be asked for.
            wants_text: wants("TEXT") || config.response_modalities.is_empty(),
            wants_thoughts: config.thinking_config.include_thoughts.unwrap_or(false),
            ratio,
            size,
            pixels,
            format: image.image_output_options.format()?,
            dice: throw_dice(model, body, config.seed.is_some()),
            text_tokens: text_tokens(&request),
            prompt,
            inputs,
        })
    }
}

/// The whole request but its labels decides the picture. Where it names no seed a real model draws one; here the labels
/// stand in for it, so that the outputs of one job differ and a repeated call still gives the same bytes.
fn throw_dice(model: &Model, mut body: Value, seeded: bool) -> [u8; 32] {
    if seeded && let Some(fields) = body.as_object_mut() {
        fields.remove("labels");
    }
    Sha256::new()
        .chain_update(model.id)
        .chain_update(body.to_string())
        .finalize()
        .into()
}

fn text_tokens(request: &Request) -> u32 {
    let system = request.system_instruction.iter();
    let characters: usize = (request.contents.iter().chain(system))
        .flat_map(|content| &content.parts)
        .filter_map(|part| part.text.as_ref())
        .map(|text| text.chars().count())
        .sum();
    u32::try_from(characters.div_ceil(4)).unwrap_or(u32::MAX)
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let fits = |text: &str| {
        text.len() <= 63
            && text
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
    };
    for (key, value) in labels {
        if !(key.starts_with(|first: char| first.is_ascii_lowercase()) && fits(key)) {
            return Err(ApiError::invalid(format!("Invalid label key: {key}.")));
        }
        if !fits(value) {
            return Err(ApiError::invalid(format!("Invalid label value: {value}.")));
        }
    }
    Ok(())
}

fn check_contents(model: &Model, contents: &[Content]) -> Result<(), ApiError> {
    if contents.is_empty() {
        return Err(ApiError::invalid(
            "Unable to submit request because it must have at least one content.",
        ));
    }
    let mut pictures = 0;
    for (position, content) in contents.iter().enumerate() {
        if !matches!(content.role.as_deref(), Some("user" | "model")) {
            return Err(ApiError::invalid("Please use a valid role: user, model."));
        }
        if content.parts.is_empty() {
            return Err(ApiError::invalid(
                "Unable to submit request because it must include at least one parts field, which describes the prompt input.",
            ));
        }
        for (index, part) in content.parts.iter().enumerate() {
            let kinds = [
                part.text.is_some(),
                part.inline_data.is_some(),
                part.file_data.is_some(),
            ];
            if kinds.into_iter().filter(|set| *set).count() != 1 {
                return Err(ApiError::invalid(
                    "Unable to submit request because each part must have exactly one data field.",
                ));
            }
            if part.file_data.is_some() {
                return Err(ApiError::invalid(
                    "This fake has no Cloud Storage behind it: send the picture as inlineData.",
                ));
            }
            if part.inline_data.is_some() {
                pictures += 1;
                // Continuing a conversation, a thinking model wants its own pictures back as it signed them.
                let own = content.role.as_deref() == Some("model");
                if own && model.thinks && part.thought_signature.is_none() {
                    return Err(ApiError::invalid(format!(
                        "Image part is missing a thought_signature in content position {}, part position {}.",
                        position + 1,
                        index + 1
                    )));
                }
            }
        }
    }
    if pictures > MOST_INPUTS {
        return Err(ApiError::invalid(format!(
            "The number of images in the request, {pictures}, exceeds the limit of {MOST_INPUTS}."
        )));
    }
    Ok(())
}

/// The prompt and the pictures of the user's turns.
///
/// The protocol has no roles for pictures, so a client says in words what each is. A text right before a picture is its
/// caption, unless no other text could be the prompt; `reference`, `style` or `model` in it make a reference.
fn read_parts(contents: &[Content]) -> Result<(String, Vec<Input>), ApiError> {
    let parts: Vec<&Part> = contents
        .iter()
        .filter(|content| content.role.as_deref() == Some("user"))
        .flat_map(|content| &content.parts)
        .collect();
    let before_picture = |index: usize| {
        parts
            .get(index + 1)
            .is_some_and(|next| next.inline_data.is_some())
    };
    let texts: Vec<usize> = (0..parts.len())
        .filter(|index| parts[*index].text.is_some())
        .collect();
    let mut prompt: Vec<usize> = texts.clone();
    prompt.retain(|index| !before_picture(*index));
    if prompt.is_empty() {
        prompt.extend(texts.first());
    }

    let mut inputs: Vec<Input> = Vec::new();
    let mut captioned = None;
    for (index, part) in parts.iter().enumerate() {
        if let Some(text) = &part.text
            && !prompt.contains(&index)
        {
            let text = text.to_lowercase();
            captioned = Some(
                ["reference", "style", "model"]
                    .iter()
                    .any(|word| text.contains(word)),
            );
        }
        if let Some(blob) = &part.inline_data {
            let reference = captioned.unwrap_or(inputs.len() >= MOST_UNCAPTIONED_PRODUCTS);
            inputs.push(Input {
                picture: decode(blob)?,
                reference,
            });
        }
    }
    let words: Vec<&str> = prompt
        .iter()
        .filter_map(|index| parts[*index].text.as_deref())
        .collect();
    let prompt = words.join(" ");
    faults::check_marker(&prompt).map_err(ApiError::invalid)?;
    Ok((prompt, inputs))
}

fn decode(blob: &Blob) -> Result<DynamicImage, ApiError> {
    let format = match blob.mime_type.as_str() {
        "image/png" => Some(ImageFormat::Png),
        "image/jpeg" => Some(ImageFormat::Jpeg),
        "image/webp" => Some(ImageFormat::WebP),
        // Google reads these; the fake takes them on trust and shows a grey card.
        "image/heic" | "image/heif" => None,
        other => {
            return Err(ApiError::invalid(format!(
                "Unable to submit request because it has a mimeType parameter with value {other}, which is not supported."
            )));
        }
    };
    let bytes = BASE64_STANDARD
        .decode(&blob.data)
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    if bytes.len() > MOST_INPUT_BYTES {
        return Err(ApiError::invalid(format!(
            "The inline data of {} bytes exceeds the limit of {MOST_INPUT_BYTES} bytes.",
            bytes.len()
        )));
    }
    match format {
        Some(format) => image::load_from_memory_with_format(&bytes, format)
            .map_err(|_| ApiError::invalid("Provided image is not valid.")),
        None => Ok(DynamicImage::ImageRgb8(image::RgbImage::from_pixel(
            96,
            96,
            image::Rgb([150; 3]),
        ))),
    }
}

impl OutputOptions {
    fn format(&self) -> Result<Format, ApiError> {
        let quality = u8::try_from(self.compression_quality.unwrap_or(75))
            .ok()
            .filter(|quality| *quality <= 100)
            .ok_or_else(|| ApiError::invalid("compression_quality must be between 0 and 100."))?;
        match self.mime_type.as_deref() {
            None | Some("image/png") => Ok(Format::Png),
            Some("image/jpeg") => Ok(Format::Jpeg { quality }),
            Some(other) => Err(ApiError::invalid(format!(
                "Unsupported output mime type: {other}. It must be image/png or image/jpeg."
            ))),
        }
    }
}

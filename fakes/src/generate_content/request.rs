//! Checks a request as Google checks it, and keeps what the image needs.

use super::{
    super::{
        faults::without_markers,
        google::{self, ApiError, Host, MAX_INPUTS, Model, Piece},
    },
    schema,
    wire::{Content, OutputOptions, Request},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use drawing::{Format, Input, Scene};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A valid request.
pub(super) struct ImageRequest {
    pub(super) host: Host,
    pub(super) model: &'static Model,
    /// The user's text without the captions of images, with its fault markers.
    pub(super) prompt: String,
    pub(super) scene: Scene,
    pub(super) wants_image: bool,
    pub(super) wants_text: bool,
    pub(super) wants_thoughts: bool,
    pub(super) pixels: (u32, u32),
    /// The output tokens of the image.
    pub(super) image_tokens: u32,
    pub(super) format: Format,
    /// The tokens of all texts in the request.
    pub(super) text_tokens: u32,
}

impl ImageRequest {
    /// Checks a body for `model`, in this version of the host's protocol.
    pub(super) fn read(
        host: Host,
        version: &str,
        model: &'static Model,
        body: &Value,
    ) -> Result<Self, ApiError> {
        let body = schema::read_request(host, version, body).map_err(ApiError::invalid)?;
        let request: Request = serde_json::from_value(body.clone())
            .map_err(|error| ApiError::invalid(format!("Invalid JSON payload: {error}")))?;
        google::check_labels(&request.labels).map_err(ApiError::invalid)?;
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
        let (size, ratio) = (image.image_size.as_deref(), image.aspect_ratio.as_deref());
        let output_size =
            (model.output_size(size, ratio, inputs.first())).map_err(ApiError::invalid)?;
        let wants = |modality: &str| {
            (config.response_modalities.iter()).any(|requested| requested == modality)
        };
        Ok(Self {
            host,
            model,
            wants_image: wants("IMAGE"),
            // Without modalities the reply is text, because an image has to be requested.
            wants_text: wants("TEXT") || config.response_modalities.is_empty(),
            wants_thoughts: config.thinking_config.include_thoughts.unwrap_or(false),
            pixels: output_size.pixels,
            image_tokens: output_size.tokens,
            format: image.image_output_options.format()?,
            text_tokens: text_tokens(&request),
            scene: Scene {
                model: model.id.to_owned(),
                title: without_markers(&prompt),
                inputs,
                ratio: output_size.ratio.to_owned(),
                seed: image_seed(model, body, config.seed.is_some()),
            },
            prompt,
        })
    }
}

/// The seed of the image, which is a hash of the request. A request with its own seed is hashed without its labels. If
/// a request has no seed, a real model draws one. Here the labels replace it, so that the outputs of one job differ,
/// and a repeated call still gives the same bytes.
fn image_seed(model: &Model, mut body: Value, has_seed: bool) -> [u8; 32] {
    if has_seed && let Some(fields) = body.as_object_mut() {
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
    let parts = (request.contents.iter().chain(system)).flat_map(|content| &content.parts);
    google::text_tokens(parts.filter_map(|part| part.text.as_deref()))
}

/// Checks the roles and the parts of all contents. The error is about the first problem.
fn check_contents(model: &Model, contents: &[Content]) -> Result<(), ApiError> {
    if contents.is_empty() {
        return Err(ApiError::invalid(
            "Unable to submit request because it must have at least one content.",
        ));
    }
    let mut image_count = 0;
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
                image_count += 1;
                // In a conversation, a thinking model accepts its own earlier images only with their signature.
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
    if image_count > MAX_INPUTS {
        return Err(ApiError::invalid(format!(
            "The number of images in the request, {image_count}, exceeds the limit of {MAX_INPUTS}."
        )));
    }
    Ok(())
}

/// The prompt and the images in the contents with the role `user`.
fn read_parts(contents: &[Content]) -> Result<(String, Vec<Input>), ApiError> {
    let user = |content: &&Content| content.role.as_deref() == Some("user");
    let mut pieces = Vec::new();
    for part in contents
        .iter()
        .filter(user)
        .flat_map(|content| &content.parts)
    {
        if let Some(text) = &part.text {
            pieces.push(Piece::Text(text));
        }
        if let Some(blob) = &part.inline_data {
            let image = google::decode_input(&blob.mime_type, &decode(&blob.data)?);
            pieces.push(Piece::Image(image.map_err(ApiError::invalid)?));
        }
    }
    Ok(google::read_captions(pieces))
}

/// Decodes an image. `schema` has already checked and normalized the base64.
fn decode(data: &str) -> Result<Vec<u8>, ApiError> {
    (BASE64_STANDARD.decode(data)).map_err(|error| ApiError::invalid(error.to_string()))
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

//! Checks a request as Google checks it, and keeps what the image needs.

use super::{
    super::{
        blob,
        faults::without_markers,
        google::{self, Host, MAX_INPUTS, Model, Piece},
        reply::Reply,
    },
    error::{invalid, no_such_model},
    wire::{Content, ImageConfig, Request, ResponseFormat},
};
use drawing::{Format, Scene};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// The only format that the protocol offers.
pub(super) const FORMAT: Format = Format::Jpeg { quality: 75 };

/// A valid request.
pub(super) struct ImageRequest {
    pub(super) model: &'static Model,
    /// The user's text without the captions of images, with its fault markers.
    pub(super) prompt: String,
    pub(super) scene: Scene,
    pub(super) wants_image: bool,
    pub(super) wants_thoughts: bool,
    pub(super) pixels: (u32, u32),
    /// The output tokens of the image.
    pub(super) image_tokens: u32,
    /// The tokens of all texts in the request.
    pub(super) text_tokens: u32,
    /// Whether the work goes on after the reply.
    pub(super) background: bool,
    /// Whether the interaction can be polled later.
    pub(super) store: bool,
    /// The id of the interaction that this one continues.
    pub(super) previous: Option<String>,
}

impl ImageRequest {
    /// Checks a body. The error is the reply to the first problem.
    pub(super) fn read(host: Host, body: &Value) -> Result<Self, Reply> {
        let request: Request = serde_json::from_value(body.clone())
            .map_err(|error| invalid(format!("Invalid request: {error}.")))?;
        check_supported(&request)?;
        if host == Host::Gemini && request.safety_settings.is_some() {
            return Err(invalid(
                "The parameter 'safety_settings' is not available on the Gemini API but it is available on the Gemini Enterprise Agent Platform.",
            ));
        }
        google::check_labels(&request.labels).map_err(invalid)?;
        let store = request.store.unwrap_or(true);
        if request.background && !store {
            return Err(invalid("'background' requires 'store' to be true."));
        }
        let config = &request.generation_config;
        one_of(
            "generation_config.thinking_level",
            config.thinking_level.as_ref(),
            &["minimal", "low", "medium", "high", "xhigh"],
        )?;
        one_of(
            "generation_config.thinking_summaries",
            config.thinking_summaries.as_ref(),
            &["auto", "none"],
        )?;
        one_of(
            "service_tier",
            request.service_tier.as_ref(),
            &["flex", "standard", "priority", "deferred"],
        )?;
        let name = request
            .model
            .ok_or_else(|| invalid("Missing required parameter 'model'."))?;
        let model = Model::find(&name).ok_or_else(|| no_such_model(&name))?;

        let input = request.input.unwrap_or_default();
        let contents = read_input(&input)?;
        let pieces: Result<Vec<_>, Reply> = contents.iter().map(read_content).collect();
        let (prompt, inputs) = google::read_captions(pieces?);
        if inputs.len() > MAX_INPUTS {
            return Err(invalid(format!(
                "The number of images in the request, {}, exceeds the limit of {MAX_INPUTS}.",
                inputs.len()
            )));
        }
        let requested = read_format(request.response_format)?;
        let by_modality = request
            .response_modalities
            .iter()
            .any(|modality| modality.eq_ignore_ascii_case("image"));
        let wants_image = requested.is_some() || by_modality;
        let requested = requested
            .or(request.generation_config.image_config)
            .unwrap_or_default();
        let output_size = model
            .output_size(
                requested.image_size.as_deref(),
                requested.aspect_ratio.as_deref(),
                inputs.first(),
            )
            .map_err(invalid)?;
        let texts = contents.iter().filter_map(|content| match content {
            Content::Text { text, .. } => Some(text.as_str()),
            Content::Image { .. } => None,
        });
        let text_tokens = google::text_tokens(texts.chain(request.system_instruction.as_deref()));
        Ok(Self {
            model,
            wants_image,
            wants_thoughts: request.generation_config.thinking_summaries.as_deref() == Some("auto"),
            pixels: output_size.pixels,
            image_tokens: output_size.tokens,
            text_tokens,
            background: request.background,
            store,
            previous: request.previous_interaction_id,
            scene: Scene {
                model: model.id.to_owned(),
                title: without_markers(&prompt),
                inputs,
                ratio: output_size.ratio.to_owned(),
                seed: image_seed(body, request.generation_config.seed.is_some()),
            },
            prompt,
        })
    }
}

/// The seed of the image, which is a hash of the request. As in `generateContent`, the labels replace the seed that a
/// real model draws.
fn image_seed(body: &Value, has_seed: bool) -> [u8; 32] {
    let mut body = body.as_object().cloned().unwrap_or_default();
    if has_seed {
        body.remove("labels");
    }
    // The image does not depend on how the caller waits for it.
    for field in ["background", "store"] {
        body.remove(field);
    }
    Sha256::digest(Value::from(body).to_string()).into()
}

/// Refuses fields that Google offers and the fake does not. So nothing is ignored silently.
fn check_supported(request: &Request) -> Result<(), Reply> {
    let requested = [
        ("stream", request.stream == Some(true)),
        ("agent", request.agent.is_some()),
        ("agent_config", request.agent_config.is_some()),
        ("cached_content", request.cached_content.is_some()),
        ("continuation_token", request.continuation_token.is_some()),
        ("environment", request.environment.is_some()),
        ("tools", request.tools.is_some()),
        ("webhook_config", request.webhook_config.is_some()),
    ];
    match requested.into_iter().find(|(_, requested)| *requested) {
        Some((name, _)) => Err(invalid(format!("This fake does not play '{name}'."))),
        None => Ok(()),
    }
}

/// Reads the input: a text, a content, a list of contents, or a list of steps, of which only the user's are used.
fn read_input(input: &Value) -> Result<Vec<Content>, Reply> {
    let items = match input {
        Value::String(text) => {
            return Ok(vec![Content::text(text)]);
        }
        Value::Object(_) => std::slice::from_ref(input),
        Value::Array(items) => items,
        _ => &[],
    };
    let mut contents = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let kind = item.get("type").and_then(Value::as_str);
        let (list, place) = match (kind, item.get("content")) {
            (Some("user_input"), Some(Value::Array(list))) => {
                (list.as_slice(), format!("input[{index}].content"))
            }
            (Some("user_input"), Some(Value::String(text))) => {
                contents.push(Content::text(text));
                continue;
            }
            // Earlier output of the model is not part of the prompt.
            (Some("model_output" | "thought"), _) => continue,
            _ => (std::slice::from_ref(item), format!("input[{index}]")),
        };
        for content in list {
            let read = serde_json::from_value(content.clone());
            contents.push(
                read.map_err(|error| invalid(format!("Invalid input at '{place}': {error}.")))?,
            );
        }
    }
    if contents.is_empty() {
        return Err(invalid("Missing required parameter 'input'."));
    }
    Ok(contents)
}

/// A content as a piece of the prompt. An image is decoded.
fn read_content(content: &Content) -> Result<Piece<'_>, Reply> {
    match content {
        Content::Text { text, .. } => Ok(Piece::Text(text)),
        Content::Image {
            data: Some(data),
            mime_type: Some(mime_type),
            uri: None,
            ..
        } => {
            let bytes = blob::decode(data).map_err(|error| invalid(error.to_string()))?;
            (google::decode_input(mime_type, &bytes).map(Piece::Image)).map_err(invalid)
        }
        Content::Image { uri: Some(_), .. } => Err(invalid(
            "This fake has no files behind it: send the picture as data.",
        )),
        Content::Image { .. } => Err(invalid("An image needs 'data' and 'mime_type'.")),
    }
}

/// The first response format for an image. Returns `None` if the request asks for no image.
fn read_format(formats: Option<Value>) -> Result<Option<ImageConfig>, Reply> {
    let formats = match formats {
        Some(Value::Array(formats)) => formats,
        format => Vec::from_iter(format),
    };
    for format in formats {
        let format = serde_json::from_value(format)
            .map_err(|error| invalid(format!("Invalid response_format: {error}.")))?;
        let ResponseFormat::Image {
            aspect_ratio,
            image_size,
            mime_type,
            delivery,
        } = format
        else {
            continue;
        };
        one_of(
            "response_format.mime_type",
            mime_type.as_ref(),
            &["image/jpeg"],
        )?;
        one_of(
            "response_format.delivery",
            delivery.as_ref(),
            &["inline", "uri"],
        )?;
        if delivery.as_deref() == Some("uri") {
            return Err(invalid(
                "This fake has no files behind it: ask for inline delivery.",
            ));
        }
        return Ok(Some(ImageConfig {
            aspect_ratio,
            image_size,
        }));
    }
    Ok(None)
}

/// Refuses a value that is not in the list. A missing value is allowed.
fn one_of(name: &str, given: Option<&String>, known: &[&str]) -> Result<(), Reply> {
    match given {
        Some(given) if !known.contains(&given.as_str()) => {
            let listed = known.join(", ");
            Err(invalid(format!(
                "Invalid value '{given}' at '{name}'. It must be one of {listed}."
            )))
        }
        _ => Ok(()),
    }
}

impl Content {
    fn text(text: &str) -> Self {
        let text = Map::from_iter([
            ("type".to_owned(), "text".into()),
            ("text".to_owned(), text.into()),
        ]);
        serde_json::from_value(text.into()).expect("this is how a text is written")
    }
}

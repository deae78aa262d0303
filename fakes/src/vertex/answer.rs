//! What the fake says: Google's replies and errors, value for value.

use super::{
    picture,
    request::{Ask, Format},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What thinking costs in every reply of a model that thinks.
const THOUGHT_TOKENS: u32 = 240;

/// An error in the shape of `google.rpc.Status`.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) code: u16,
    pub(super) status: &'static str,
    pub(super) message: String,
}

impl ApiError {
    /// 400, with the sentence that says what is wrong.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self {
            code: 400,
            status: "INVALID_ARGUMENT",
            message: message.into(),
        }
    }

    /// The error Google sends with this HTTP status. `model` is the resource name, `projects/…/models/…`.
    pub(super) fn of_status(code: u16, model: &str) -> Self {
        let (status, message) = match code {
            400 => ("INVALID_ARGUMENT", "Request contains an invalid argument.".to_owned()),
            401 => ("UNAUTHENTICATED", "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.".to_owned()),
            403 => ("PERMISSION_DENIED", format!("Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/{model}' (or it may not exist).")),
            404 => ("NOT_FOUND", format!("Publisher model '{model}' was not found or your project does not have access to it. Please ensure you are using a valid model version. For more information, see: https://cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versions")),
            429 => ("RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later. Please refer to https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details.".to_owned()),
            499 => ("CANCELLED", "The operation was cancelled.".to_owned()),
            500 => ("INTERNAL", "Internal error encountered.".to_owned()),
            503 => ("UNAVAILABLE", "The service is currently unavailable.".to_owned()),
            408 | 504 => ("DEADLINE_EXCEEDED", "Deadline expired before operation could complete.".to_owned()),
            _ => ("UNKNOWN", "Unknown error.".to_owned()),
        };
        Self {
            code,
            status,
            message,
        }
    }

    /// 401, as Google answers a request that brings no token at all.
    pub(super) fn no_credentials() -> Self {
        Self {
            code: 401,
            status: "UNAUTHENTICATED",
            message: "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.".to_owned(),
        }
    }

    pub(super) fn body(&self) -> Value {
        let Self {
            code,
            status,
            message,
        } = self;
        json!({"error": {"code": code, "message": message, "status": status}})
    }
}

/// How a reply with a picture departs from a good one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The only picture is marked as a thought, as Gemini 3 has been seen to do.
    Thought,
    /// JPEG bytes under a PNG label, or the other way round.
    WrongType,
    /// A sixteenth too small each way.
    WrongSize,
    /// The data is no base64.
    BadBase64,
    /// The data decodes to bytes that are no picture.
    NoPicture,
}

/// A good reply: draws the picture. Also returns the SHA-256 of its bytes, in hex.
pub(super) fn picture(ask: &Ask, flaw: Option<Flaw>) -> (Value, String) {
    let mut pixels = ask.pixels;
    let mut format = ask.format;
    if flaw == Some(Flaw::WrongSize) {
        pixels = (pixels.0 - pixels.0 / 16, pixels.1 - pixels.1 / 16);
    }
    if flaw == Some(Flaw::WrongType) {
        format = match format {
            Format::Png => Format::Jpeg { quality: 75 },
            Format::Jpeg { .. } => Format::Png,
        };
    }
    let mut bytes = picture::draw(ask, pixels, format);
    if flaw == Some(Flaw::NoPicture) {
        bytes = b"These bytes are no picture.".to_vec();
    }
    let sha256 = Sha256::digest(&bytes);
    let mut data = BASE64_STANDARD.encode(&bytes);
    if flaw == Some(Flaw::BadBase64) {
        data.insert_str(data.len() / 2, "*not base64*");
    }

    let mime_type = ask.format.mime_type();
    let mut parts = Vec::new();
    if ask.model.thinks {
        parts.push(json!({"text": format!("Considering the composition in {}, then light and colour.", ask.ratio), "thought": true}));
        if ask.wants_thoughts {
            let draft = (ask.pixels.0 / 4, ask.pixels.1 / 4);
            let draft = BASE64_STANDARD.encode(picture::draw(ask, draft, ask.format));
            parts.push(
                json!({"inlineData": {"mimeType": mime_type, "data": draft}, "thought": true}),
            );
        }
    }
    if ask.wants_text {
        parts.push(json!({"text": "Here is your image."}));
    }
    let mut part = json!({"inlineData": {"mimeType": mime_type, "data": data}});
    if ask.model.thinks {
        part["thoughtSignature"] = BASE64_STANDARD.encode(sha256).into();
    }
    if flaw == Some(Flaw::Thought) {
        part["thought"] = true.into();
    }
    parts.push(part);

    let tokens = ask.model.tokens(&ask.size).unwrap_or_default();
    let reply = json!({
        "candidates": [{"index": 0, "content": {"role": "model", "parts": parts}, "finishReason": "STOP"}],
        "usageMetadata": usage(ask, Some(("IMAGE", tokens))),
    });
    (reply, hex::encode(sha256))
}

/// `STOP` with words and no picture: no image was asked for, or the model made none.
pub(super) fn text_only(ask: &Ask) -> Value {
    json!({
        "candidates": [{
            "index": 0,
            "content": {"role": "model", "parts": [{"text": "I can describe this picture, but I did not make one."}]},
            "finishReason": "STOP",
        }],
        "usageMetadata": usage(ask, Some(("TEXT", 13))),
    })
}

/// A candidate that ended for `reason` and has no parts, as captured from the real service.
pub(super) fn finished(ask: &Ask, reason: &str) -> Value {
    let mut candidate = json!({"index": 0, "content": {"role": "model"}, "finishReason": reason});
    if !matches!(reason, "NO_IMAGE" | "MAX_TOKENS") {
        candidate["finishMessage"] = "The model output could not be generated. Try rephrasing the prompt. If you think this was an error, send feedback. Support code: 42876398.".into();
    }
    json!({"candidates": [candidate], "usageMetadata": usage(ask, None)})
}

/// The prompt was refused: no candidates at all.
pub(super) fn blocked(ask: &Ask, reason: &str) -> Value {
    json!({
        "promptFeedback": {
            "blockReason": reason,
            "blockReasonMessage": "The prompt could not be submitted. It contains words that violate Google's Responsible AI practices. Try rephrasing the prompt.",
        },
        "usageMetadata": {
            "promptTokenCount": prompt_tokens(ask),
            "totalTokenCount": prompt_tokens(ask),
            "promptTokensDetails": prompt_details(ask),
            "trafficType": "ON_DEMAND",
        },
    })
}

/// The tokens of one reply; `made` is the modality of what came out and its tokens.
fn usage(ask: &Ask, made: Option<(&str, u32)>) -> Value {
    let prompt = prompt_tokens(ask);
    let thoughts = if ask.model.thinks { THOUGHT_TOKENS } else { 0 };
    let mut total = prompt + thoughts;
    let mut usage = json!({
        "promptTokenCount": prompt,
        "promptTokensDetails": prompt_details(ask),
        "trafficType": "ON_DEMAND",
    });
    if thoughts > 0 {
        usage["thoughtsTokenCount"] = thoughts.into();
    }
    if let Some((modality, tokens)) = made {
        total += tokens;
        usage["candidatesTokenCount"] = tokens.into();
        usage["candidatesTokensDetails"] = json!([{"modality": modality, "tokenCount": tokens}]);
    }
    usage["totalTokenCount"] = total.into();
    usage
}

fn prompt_tokens(ask: &Ask) -> u32 {
    ask.text_tokens + input_tokens(ask)
}

fn input_tokens(ask: &Ask) -> u32 {
    u32::try_from(ask.inputs.len())
        .unwrap_or(u32::MAX)
        .saturating_mul(ask.model.tokens_per_input)
}

fn prompt_details(ask: &Ask) -> Value {
    let mut details = vec![json!({"modality": "TEXT", "tokenCount": ask.text_tokens})];
    if !ask.inputs.is_empty() {
        details.insert(
            0,
            json!({"modality": "IMAGE", "tokenCount": input_tokens(ask)}),
        );
    }
    details.into()
}

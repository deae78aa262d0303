//! Builds interactions, field by field.

use super::{
    super::{
        call::now,
        fault::{ELSEWHERE, Fault},
        faults::Style,
        generated_image,
        google::THOUGHT_TOKENS,
        reply::Reply,
    },
    error,
    request::{FORMAT, ImageRequest},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::format_description::well_known::Rfc3339;

/// Code and sentence of the filter for prompts.
const CONTENT_BLOCKED: (&str, &str) = (
    "content_blocked",
    "Input blocked: The prompt could not be processed.",
);
/// Code and sentence of the filter for images. In the recorded reply the code is a sentence, too.
const CONTENT_FILTERED: (&str, &str) = (
    "Unable to show the generated image. The image was filtered out because it violated Google's [Generative AI Prohibited Use policy](https://policies.google.com/terms/generative-ai/use-policy). Try rephrasing the prompt. If you think this was an error, [send feedback](https://ai.google.dev/gemini-api/docs/troubleshooting).",
    "Request blocked due to safety violations (harmful content). Please modify your input and retry.",
);

/// The work of an interaction.
pub(super) struct Work {
    /// The id of the interaction.
    pub(super) id: String,
    /// When the interaction was created, as [`timestamp`] writes it.
    pub(super) created: String,
    pub(super) request: ImageRequest,
    pub(super) fault: Option<Fault>,
    pub(super) style: Style,
}

/// The result of the work.
pub(super) struct WorkResult {
    pub(super) status: String,
    /// The interaction, as polls return it.
    pub(super) body: Value,
    /// The SHA-256 of the image, in hex.
    pub(super) image_sha256: Option<String>,
}

/// The reply to a caller who waits, if the prompt or the image is refused.
pub(super) fn refusal(fault: Option<&Fault>) -> Option<Reply> {
    let (code, message) = match fault {
        Some(Fault::ContentBlocked) => CONTENT_BLOCKED,
        Some(Fault::ContentFiltered) => CONTENT_FILTERED,
        _ => return None,
    };
    Some(error::error(400, code, message))
}

/// An interaction that is running.
pub(super) fn running_interaction(work: &Work) -> Value {
    interaction(work, "in_progress")
}

/// The result of work that was canceled.
pub(super) fn cancel(work: &Work) -> WorkResult {
    WorkResult::new(interaction(work, "cancelled"), None)
}

/// Does the work: draws the image, or plays the fault.
pub(super) fn run(work: &Work) -> WorkResult {
    let request = &work.request;
    match &work.fault {
        Some(Fault::Interaction(status)) => end_with_status(work, status),
        Some(Fault::ContentBlocked) => fail(work, CONTENT_BLOCKED),
        Some(Fault::ContentFiltered) => fail(work, CONTENT_FILTERED),
        Some(Fault::Error(code)) => fail(work, (code, "The request could not be completed.")),
        Some(Fault::Elsewhere) => {
            let content =
                json!({"type": "image", "mime_type": FORMAT.mime_type(), "uri": ELSEWHERE});
            complete(work, Some(("image", request.image_tokens)), &[content])
        }
        Some(Fault::Empty) => complete(work, None, &[]),
        Some(Fault::TextOnly) => complete(work, Some(("text", 13)), &[text()]),
        _ if !request.wants_image => complete(work, Some(("text", 13)), &[text()]),
        fault => {
            let image = generated_image::make(
                &request.scene,
                request.pixels,
                FORMAT,
                fault.as_ref(),
                work.style,
            );
            let content =
                json!({"type": "image", "mime_type": FORMAT.mime_type(), "data": image.base64()});
            let result = complete(work, Some(("image", request.image_tokens)), &[content]);
            WorkResult {
                image_sha256: Some(image.hash()),
                ..result
            }
        }
    }
}

fn text() -> Value {
    json!({"type": "text", "text": "I can describe this picture, but I did not make one."})
}

/// The result of completed work. `output` is its modality and its tokens.
fn complete(work: &Work, output: Option<(&str, u32)>, content: &[Value]) -> WorkResult {
    let mut body = interaction(work, "completed");
    let mut steps = thoughts(work);
    if !content.is_empty() {
        steps.push(json!({"type": "model_output", "content": content}));
    }
    body["steps"] = steps.into();
    body["usage"] = usage(&work.request, output);
    WorkResult::new(body, None)
}

/// The result of failed work, as recorded from the real service. The reason is in `errors` and again in the failed
/// step, where the code is a number of `google.rpc.Code`.
fn fail(work: &Work, (code, message): (&str, &str)) -> WorkResult {
    let mut body = interaction(work, "failed");
    body["errors"] = json!([{"code": code, "message": message}]);
    body["steps"] = json!([{"type": "model_output", "error": {"code": 3, "message": message}}]);
    WorkResult::new(body, None)
}

/// The result of work that ended without an image, in this status. It has the fields that go with the status.
fn end_with_status(work: &Work, status: &str) -> WorkResult {
    let mut body = interaction(work, status);
    let mut steps = thoughts(work);
    match status {
        "failed" => {
            body["errors"] =
                json!([{"code": "internal", "message": "An internal error occurred."}]);
            steps.push(json!({"type": "model_output", "error": {"code": 13, "message": "An internal error occurred."}}));
        }
        "budget_exceeded" => {
            body["errors"] = json!([{"code": status, "message": "The token budget of the interaction is exceeded."}]);
        }
        "requires_action" => {
            steps.push(json!({"type": "function_call", "id": "call_1", "name": "look_up", "arguments": {}}));
        }
        "requires_continuation" => {
            body["continuation_token"] = "a-token-of-the-fake".into();
        }
        "cancelled" | "incomplete" | "completed" => {}
        _ => {
            body["errors"] = json!([{"code": status, "message": "The interaction ended in a way nobody foresaw."}]);
        }
    }
    body["steps"] = steps.into();
    body["usage"] = usage(&work.request, None);
    WorkResult::new(body, None)
}

/// The fields of every interaction. An interaction that is not stored has no id, because it cannot be polled.
fn interaction(work: &Work, status: &str) -> Value {
    let mut body = json!({
        "object": "interaction",
        "status": status,
        "model": work.request.model.id,
        "created": work.created,
        "updated": timestamp(),
        "service_tier": "standard",
    });
    if work.request.store {
        body["id"] = work.id.clone().into();
    }
    if let Some(previous) = &work.request.previous {
        body["previous_interaction_id"] = previous.clone().into();
    }
    body
}

/// The thought before the output, if the model thinks. It has a summary only if the request asks for it.
fn thoughts(work: &Work) -> Vec<Value> {
    if !work.request.model.thinks {
        return Vec::new();
    }
    let signature = BASE64_STANDARD.encode(Sha256::digest(&work.id));
    let mut thought = json!({"type": "thought", "signature": signature});
    if work.request.wants_thoughts {
        let text = format!(
            "Considering the composition in {}.",
            work.request.scene.ratio
        );
        thought["summary"] = json!([{"type": "text", "text": text}]);
    }
    vec![thought]
}

/// The tokens of one interaction. `output` is its modality and its tokens.
fn usage(request: &ImageRequest, output: Option<(&str, u32)>) -> Value {
    let image_count = u32::try_from(request.scene.inputs.len()).unwrap_or(u32::MAX);
    let input_image_tokens = image_count.saturating_mul(request.model.tokens_per_input);
    let input = request.text_tokens + input_image_tokens;
    let mut inputs = vec![json!({"modality": "text", "tokens": request.text_tokens})];
    if image_count > 0 {
        inputs.push(json!({"modality": "image", "tokens": input_image_tokens}));
    }
    let thoughts = if request.model.thinks {
        THOUGHT_TOKENS
    } else {
        0
    };
    let output_tokens = output.map_or(0, |(_, tokens)| tokens);
    let outputs = output.map(|(modality, tokens)| json!({"modality": modality, "tokens": tokens}));
    json!({
        "total_input_tokens": input,
        "input_tokens_by_modality": inputs,
        "total_cached_tokens": 0,
        "total_output_tokens": output_tokens,
        "output_tokens_by_modality": Vec::from_iter(outputs),
        "total_tool_use_tokens": 0,
        "total_thought_tokens": thoughts,
        "total_tokens": input + output_tokens + thoughts,
    })
}

/// The current time in whole seconds, as Google writes it here.
pub(super) fn timestamp() -> String {
    let now = now().replace_nanosecond(0).unwrap_or_else(|_| now());
    now.format(&Rfc3339).unwrap_or_default()
}

impl WorkResult {
    fn new(body: Value, image_sha256: Option<String>) -> Self {
        Self {
            status: body["status"].as_str().unwrap_or_default().to_owned(),
            body,
            image_sha256,
        }
    }
}

//! What the fake says: interactions, value for value.

use super::{
    super::{
        call::now,
        fault::{ELSEWHERE, Fault},
        google::THOUGHT_TOKENS,
        picture,
    },
    error,
    kept::{End, Work},
    request::{Ask, FORMAT},
};
use crate::reply::Reply;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::format_description::well_known::Rfc3339;

/// What the filters say of a prompt and of a picture: word and sentence.
const CONTENT_BLOCKED: (&str, &str) = (
    "content_blocked",
    "Input blocked: The prompt could not be processed.",
);
const CONTENT_FILTERED: (&str, &str) = (
    "Unable to show the generated image. The image was filtered out because it violated Google's [Generative AI Prohibited Use policy](https://policies.google.com/terms/generative-ai/use-policy). Try rephrasing the prompt. If you think this was an error, [send feedback](https://ai.google.dev/gemini-api/docs/troubleshooting).",
    "Request blocked due to safety violations (harmful content). Please modify your input and retry.",
);

/// The reply that refuses a caller who waited.
pub(super) fn refusal(fault: Option<&Fault>) -> Option<Reply> {
    let (code, message) = match fault {
        Some(Fault::ContentBlocked) => CONTENT_BLOCKED,
        Some(Fault::ContentFiltered) => CONTENT_FILTERED,
        _ => return None,
    };
    Some(error::error(400, code, message))
}

/// An interaction under way.
pub(super) fn in_progress(work: &Work) -> Value {
    interaction(work, "in_progress")
}

/// An interaction somebody cancelled.
pub(super) fn cancelled(work: &Work) -> End {
    End::of(interaction(work, "cancelled"), None)
}

/// Does the work: draws the picture, or what the fault makes of it.
pub(super) fn end(work: &Work) -> End {
    let ask = &work.ask;
    match &work.fault {
        Some(Fault::Interaction(status)) => ended(work, status),
        Some(Fault::ContentBlocked) => failed(work, CONTENT_BLOCKED),
        Some(Fault::ContentFiltered) => failed(work, CONTENT_FILTERED),
        Some(Fault::Error(code)) => failed(work, (code, "The request could not be completed.")),
        Some(Fault::Elsewhere) => {
            let content =
                json!({"type": "image", "mime_type": FORMAT.mime_type(), "uri": ELSEWHERE});
            completed(work, Some(("image", ask.picture_tokens)), &[content])
        }
        Some(Fault::Empty) => completed(work, None, &[]),
        Some(Fault::TextOnly) => completed(work, Some(("text", 13)), &[words()]),
        _ if !ask.wants_picture => completed(work, Some(("text", 13)), &[words()]),
        fault => {
            let made = picture::make(&ask.scene, ask.pixels, FORMAT, fault.as_ref(), work.look);
            let content =
                json!({"type": "image", "mime_type": FORMAT.mime_type(), "data": made.base64()});
            let end = completed(work, Some(("image", ask.picture_tokens)), &[content]);
            End {
                picture: Some(made.hash()),
                ..end
            }
        }
    }
}

fn words() -> Value {
    json!({"type": "text", "text": "I can describe this picture, but I did not make one."})
}

/// `made` is the modality of what came out and its tokens.
fn completed(work: &Work, made: Option<(&str, u32)>, content: &[Value]) -> End {
    let mut body = interaction(work, "completed");
    let mut steps = thoughts(work);
    if !content.is_empty() {
        steps.push(json!({"type": "model_output", "content": content}));
    }
    body["steps"] = steps.into();
    body["usage"] = usage(&work.ask, made);
    End::of(body, None)
}

/// As captured: the reason stands in `errors`, and again on the step that made nothing.
fn failed(work: &Work, (code, message): (&str, &str)) -> End {
    let mut body = interaction(work, "failed");
    body["errors"] = json!([{"code": code, "message": message}]);
    body["steps"] = json!([{"type": "model_output", "error": {"code": 3, "message": message}}]);
    End::of(body, None)
}

/// An end without a picture in whatever status, with what goes with it.
fn ended(work: &Work, status: &str) -> End {
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
    body["usage"] = usage(&work.ask, None);
    End::of(body, None)
}

/// What every interaction has. One that is not stored has no id: there is nothing to ask for.
fn interaction(work: &Work, status: &str) -> Value {
    let mut body = json!({
        "object": "interaction",
        "status": status,
        "model": work.ask.model.id,
        "created": work.created,
        "updated": timestamp(),
        "service_tier": "standard",
    });
    if work.ask.store {
        body["id"] = work.id.clone().into();
    }
    if let Some(previous) = &work.ask.previous {
        body["previous_interaction_id"] = previous.clone().into();
    }
    body
}

/// The thinking before the output; what the thoughts were is told only to who asks.
fn thoughts(work: &Work) -> Vec<Value> {
    if !work.ask.model.thinks {
        return Vec::new();
    }
    let signature = BASE64_STANDARD.encode(Sha256::digest(&work.id));
    let mut thought = json!({"type": "thought", "signature": signature});
    if work.ask.wants_thoughts {
        let text = format!("Considering the composition in {}.", work.ask.scene.ratio);
        thought["summary"] = json!([{"type": "text", "text": text}]);
    }
    vec![thought]
}

fn usage(ask: &Ask, made: Option<(&str, u32)>) -> Value {
    let pictures = u32::try_from(ask.scene.inputs.len()).unwrap_or(u32::MAX);
    let input_pictures = pictures.saturating_mul(ask.model.tokens_per_input);
    let input = ask.text_tokens + input_pictures;
    let mut inputs = vec![json!({"modality": "text", "tokens": ask.text_tokens})];
    if pictures > 0 {
        inputs.push(json!({"modality": "image", "tokens": input_pictures}));
    }
    let thoughts = if ask.model.thinks { THOUGHT_TOKENS } else { 0 };
    let output = made.map_or(0, |(_, tokens)| tokens);
    let outputs = made.map(|(modality, tokens)| json!({"modality": modality, "tokens": tokens}));
    json!({
        "total_input_tokens": input,
        "input_tokens_by_modality": inputs,
        "total_cached_tokens": 0,
        "total_output_tokens": output,
        "output_tokens_by_modality": Vec::from_iter(outputs),
        "total_tool_use_tokens": 0,
        "total_thought_tokens": thoughts,
        "total_tokens": input + output + thoughts,
    })
}

/// Whole seconds, as Google writes them here.
pub(super) fn timestamp() -> String {
    let now = now().replace_nanosecond(0).unwrap_or_else(|_| now());
    now.format(&Rfc3339).unwrap_or_default()
}

impl End {
    fn of(body: Value, picture: Option<String>) -> Self {
        Self {
            status: body["status"].as_str().unwrap_or_default().to_owned(),
            body,
            picture,
        }
    }
}

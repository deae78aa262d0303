//! Builds Google's replies, field by field.

use super::{
    super::{
        call::{now, unique},
        fault::Fault,
        faults::CallPlan,
        generated_image,
        google::{ApiError, Host, THOUGHT_TOKENS},
        reply::Reply,
    },
    request::ImageRequest,
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

/// The reply to a valid request: good, or with the fault of its plan.
pub(super) fn reply(request: &ImageRequest, plan: &CallPlan) -> Reply {
    let mut hash = None;
    let mut body = match &plan.fault {
        Some(Fault::FailedPrecondition) => return ApiError::failed_precondition().into_reply(),
        Some(Fault::Empty) => return Reply::json(200, &json!({})),
        Some(Fault::Finish(reason)) => finish_reason_body(request, reason),
        Some(Fault::Block(reason)) => blocked_body(request, reason),
        Some(Fault::TextOnly) => text_only_body(request),
        None if !request.wants_image => text_only_body(request),
        _ => {
            let (body, sha256) = image_body(request, plan);
            hash = Some(sha256);
            body
        }
    };
    let now = now();
    body["modelVersion"] = request.model.id.into();
    body["responseId"] = BASE64_URL_SAFE_NO_PAD.encode(unique()).into();
    if request.host == Host::Vertex {
        body["createTime"] = now.format(&Rfc3339).unwrap_or_default().into();
    }
    let reply = Reply::json(200, &body).with_image_hash(hash);
    if request.wants_image {
        reply
    } else {
        reply.with_outcome("text")
    }
}

/// The body of a reply with an image, which has the flaw of the plan's fault, and the SHA-256 of the image in hex.
fn image_body(request: &ImageRequest, plan: &CallPlan) -> (Value, String) {
    let fault = plan.fault.as_ref();
    let image = generated_image::make(
        &request.scene,
        request.pixels,
        request.format,
        fault,
        plan.style,
    );
    let mime_type = request.format.mime_type();
    let mut parts = Vec::new();
    if request.model.thinks {
        parts.push(json!({"text": format!("Considering the composition in {}, then light and colour.", request.scene.ratio), "thought": true}));
        if request.wants_thoughts {
            // A thought may show a draft, which is smaller than the image.
            let draft = (request.pixels.0 / 4, request.pixels.1 / 4);
            let draft =
                generated_image::make(&request.scene, draft, request.format, None, plan.style)
                    .base64();
            parts.push(
                json!({"inlineData": {"mimeType": mime_type, "data": draft}, "thought": true}),
            );
        }
    }
    if request.wants_text {
        parts.push(json!({"text": "Here is your image."}));
    }
    let mut part = json!({"inlineData": {"mimeType": mime_type, "data": image.base64()}});
    if request.model.thinks {
        part["thoughtSignature"] = BASE64_STANDARD.encode(image.sha256).into();
    }
    if fault == Some(&Fault::OnlyThought) {
        part["thought"] = true.into();
    }
    parts.push(part);

    let reply = json!({
        "candidates": [{"index": 0, "content": {"role": "model", "parts": parts}, "finishReason": "STOP"}],
        "usageMetadata": usage(request, Some(("IMAGE", request.image_tokens))),
    });
    (reply, image.hash())
}

/// The body with `STOP`, text and no image, because no image was requested or the model made none.
fn text_only_body(request: &ImageRequest) -> Value {
    json!({
        "candidates": [{
            "index": 0,
            "content": {"role": "model", "parts": [{"text": "I can describe this picture, but I did not make one."}]},
            "finishReason": "STOP",
        }],
        "usageMetadata": usage(request, Some(("TEXT", 13))),
    })
}

/// A candidate with this `finishReason` and without parts, as recorded from the real service.
fn finish_reason_body(request: &ImageRequest, reason: &str) -> Value {
    let mut candidate = json!({"index": 0, "content": {"role": "model"}, "finishReason": reason});
    if !matches!(reason, "NO_IMAGE" | "MAX_TOKENS") {
        candidate["finishMessage"] = "The model output could not be generated. Try rephrasing the prompt. If you think this was an error, send feedback. Support code: 42876398.".into();
    }
    json!({"candidates": [candidate], "usageMetadata": usage(request, None)})
}

/// The body of the reply to a refused prompt. It has no candidates.
fn blocked_body(request: &ImageRequest, reason: &str) -> Value {
    let mut usage = json!({
        "promptTokenCount": prompt_tokens(request),
        "totalTokenCount": prompt_tokens(request),
        "promptTokensDetails": prompt_details(request),
    });
    let mut feedback = json!({"blockReason": reason});
    if request.host == Host::Vertex {
        feedback["blockReasonMessage"] = "The prompt could not be submitted. It contains words that violate Google's Responsible AI practices. Try rephrasing the prompt.".into();
        usage["trafficType"] = "ON_DEMAND".into();
    }
    json!({"promptFeedback": feedback, "usageMetadata": usage})
}

/// The tokens of one reply. `output` is its modality and its tokens.
fn usage(request: &ImageRequest, output: Option<(&str, u32)>) -> Value {
    let prompt = prompt_tokens(request);
    let thoughts = if request.model.thinks {
        THOUGHT_TOKENS
    } else {
        0
    };
    let mut total = prompt + thoughts;
    let mut usage = json!({
        "promptTokenCount": prompt,
        "promptTokensDetails": prompt_details(request),
    });
    if request.host == Host::Vertex {
        usage["trafficType"] = "ON_DEMAND".into();
    }
    if thoughts > 0 {
        usage["thoughtsTokenCount"] = thoughts.into();
    }
    if let Some((modality, tokens)) = output {
        total += tokens;
        usage["candidatesTokenCount"] = tokens.into();
        usage["candidatesTokensDetails"] = json!([{"modality": modality, "tokenCount": tokens}]);
    }
    usage["totalTokenCount"] = total.into();
    usage
}

fn prompt_tokens(request: &ImageRequest) -> u32 {
    request.text_tokens + input_tokens(request)
}

fn input_tokens(request: &ImageRequest) -> u32 {
    u32::try_from(request.scene.inputs.len())
        .unwrap_or(u32::MAX)
        .saturating_mul(request.model.tokens_per_input)
}

fn prompt_details(request: &ImageRequest) -> Value {
    let mut details = vec![json!({"modality": "TEXT", "tokenCount": request.text_tokens})];
    if !request.scene.inputs.is_empty() {
        details.insert(
            0,
            json!({"modality": "IMAGE", "tokenCount": input_tokens(request)}),
        );
    }
    details.into()
}

//! What the fake says: Google's replies, value for value.

use super::{
    super::{
        call::{now, unique},
        fault::Fault,
        faults::Fate,
        google::{ApiError, Host, THOUGHT_TOKENS},
        picture,
        reply::Reply,
    },
    request::Ask,
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

/// The reply to a valid request, good or as the fault has it.
pub(super) fn reply(ask: &Ask, fate: &Fate) -> Reply {
    let mut hash = None;
    let mut body = match &fate.fault {
        Some(Fault::FailedPrecondition) => return ApiError::failed_precondition().into_reply(),
        Some(Fault::Empty) => return Reply::json(200, &json!({})),
        Some(Fault::Finish(reason)) => finished(ask, reason),
        Some(Fault::Block(reason)) => blocked(ask, reason),
        Some(Fault::TextOnly) => text_only(ask),
        None if !ask.wants_picture => text_only(ask),
        _ => {
            let (body, sha256) = picture(ask, fate);
            hash = Some(sha256);
            body
        }
    };
    let now = now();
    body["modelVersion"] = ask.model.id.into();
    body["responseId"] = BASE64_URL_SAFE_NO_PAD.encode(unique()).into();
    if ask.host == Host::Vertex {
        body["createTime"] = now.format(&Rfc3339).unwrap_or_default().into();
    }
    let reply = Reply::json(200, &body).showing(hash);
    if ask.wants_picture {
        reply
    } else {
        reply.told("text")
    }
}

/// A good reply: draws the picture. Also returns the SHA-256 of its bytes, in hex.
fn picture(ask: &Ask, fate: &Fate) -> (Value, String) {
    let fault = fate.fault.as_ref();
    let made = picture::make(&ask.scene, ask.pixels, ask.format, fault, fate.look);
    let mime_type = ask.format.mime_type();
    let mut parts = Vec::new();
    if ask.model.thinks {
        parts.push(json!({"text": format!("Considering the composition in {}, then light and colour.", ask.scene.ratio), "thought": true}));
        if ask.wants_thoughts {
            let draft = (ask.pixels.0 / 4, ask.pixels.1 / 4);
            let draft = picture::make(&ask.scene, draft, ask.format, None, fate.look).base64();
            parts.push(
                json!({"inlineData": {"mimeType": mime_type, "data": draft}, "thought": true}),
            );
        }
    }
    if ask.wants_text {
        parts.push(json!({"text": "Here is your image."}));
    }
    let mut part = json!({"inlineData": {"mimeType": mime_type, "data": made.base64()}});
    if ask.model.thinks {
        part["thoughtSignature"] = BASE64_STANDARD.encode(made.sha256).into();
    }
    if fault == Some(&Fault::OnlyThought) {
        part["thought"] = true.into();
    }
    parts.push(part);

    let reply = json!({
        "candidates": [{"index": 0, "content": {"role": "model", "parts": parts}, "finishReason": "STOP"}],
        "usageMetadata": usage(ask, Some(("IMAGE", ask.picture_tokens))),
    });
    (reply, made.hash())
}

/// `STOP` with words and no picture: no image was asked for, or the model made none.
fn text_only(ask: &Ask) -> Value {
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
fn finished(ask: &Ask, reason: &str) -> Value {
    let mut candidate = json!({"index": 0, "content": {"role": "model"}, "finishReason": reason});
    if !matches!(reason, "NO_IMAGE" | "MAX_TOKENS") {
        candidate["finishMessage"] = "The model output could not be generated. Try rephrasing the prompt. If you think this was an error, send feedback. Support code: 42876398.".into();
    }
    json!({"candidates": [candidate], "usageMetadata": usage(ask, None)})
}

/// The prompt was refused: no candidates at all.
fn blocked(ask: &Ask, reason: &str) -> Value {
    let mut usage = json!({
        "promptTokenCount": prompt_tokens(ask),
        "totalTokenCount": prompt_tokens(ask),
        "promptTokensDetails": prompt_details(ask),
    });
    let mut feedback = json!({"blockReason": reason});
    if ask.host == Host::Vertex {
        feedback["blockReasonMessage"] = "The prompt could not be submitted. It contains words that violate Google's Responsible AI practices. Try rephrasing the prompt.".into();
        usage["trafficType"] = "ON_DEMAND".into();
    }
    json!({"promptFeedback": feedback, "usageMetadata": usage})
}

/// The tokens of one reply; `made` is the modality of what came out and its tokens.
fn usage(ask: &Ask, made: Option<(&str, u32)>) -> Value {
    let prompt = prompt_tokens(ask);
    let thoughts = if ask.model.thinks { THOUGHT_TOKENS } else { 0 };
    let mut total = prompt + thoughts;
    let mut usage = json!({
        "promptTokenCount": prompt,
        "promptTokensDetails": prompt_details(ask),
    });
    if ask.host == Host::Vertex {
        usage["trafficType"] = "ON_DEMAND".into();
    }
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
    u32::try_from(ask.scene.inputs.len())
        .unwrap_or(u32::MAX)
        .saturating_mul(ask.model.tokens_per_input)
}

fn prompt_details(ask: &Ask) -> Value {
    let mut details = vec![json!({"modality": "TEXT", "tokenCount": ask.text_tokens})];
    if !ask.scene.inputs.is_empty() {
        details.insert(
            0,
            json!({"modality": "IMAGE", "tokenCount": input_tokens(ask)}),
        );
    }
    details.into()
}

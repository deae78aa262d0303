//! What the fake says: `OpenAI`'s replies, value for value.

use super::{
    super::{
        call::now,
        fault::{ELSEWHERE, Fault},
        faults::Fate,
        picture,
        picture::Format,
        reply::Reply,
    },
    gallery::Gallery,
    request::{Ask, Usage},
    shape,
};
use serde_json::{Value, json};

/// The reply to a valid request, good or as the fault has it.
pub(super) fn reply(mut ask: Ask, fate: &Fate, gallery: &Gallery, base_url: &str) -> Reply {
    let fault = fate.fault.as_ref();
    let shape = match fault {
        Some(Fault::Shape(name)) => Some(name.as_str()),
        _ => None,
    };
    ask.by_address |= shape.is_some_and(shape::is_by_address);
    let count = if fault == Some(&Fault::Empty) {
        0
    } else {
        ask.count
    };
    let mut hash = None;
    let mut data = Vec::new();
    for _ in 0..count {
        let made = picture::make(&ask.scene, ask.pixels, ask.format, fault, fate.look);
        ask.scene.roll_again();
        hash.get_or_insert_with(|| made.hash());
        data.push(if fault == Some(&Fault::Elsewhere) {
            json!({"url": ELSEWHERE})
        } else if ask.by_address {
            let name = format!("{}.{}", made.hash(), word(ask.format));
            let path = gallery.hang(name, ask.format.mime_type(), made.bytes.clone());
            json!({"url": format!("{base_url}{path}")})
        } else {
            json!({"b64_json": made.base64()})
        });
    }
    let mut body = json!({"created": now().unix_timestamp(), "data": data});
    if let Some(usage) = &ask.usage {
        body["background"] = "opaque".into();
        body["output_format"] = word(ask.format).into();
        body["quality"] = ask.quality.into();
        body["size"] = format!("{}x{}", ask.pixels.0, ask.pixels.1).into();
        body["usage"] = counted(usage);
    }
    let reply = match shape {
        Some(name) => shape::reply(name, body),
        None => Reply::json(200, &body),
    };
    reply.showing(hash)
}

fn counted(usage: &Usage) -> Value {
    let Usage {
        text,
        images,
        output,
    } = usage;
    json!({
        "input_tokens": text + images,
        "output_tokens": output,
        "total_tokens": text + images + output,
        "input_tokens_details": {"text_tokens": text, "image_tokens": images},
        "output_tokens_details": {"image_tokens": output, "text_tokens": 0},
    })
}

fn word(format: Format) -> &'static str {
    match format {
        Format::Png => "png",
        Format::Jpeg { .. } => "jpeg",
        Format::WebP => "webp",
    }
}

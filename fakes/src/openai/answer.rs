//! Builds the replies of `OpenAI`, field by field.

use super::{
    super::{
        call::now,
        fault::{ELSEWHERE, Fault},
        faults::CallPlan,
        generated_image,
        reply::Reply,
    },
    downloads::Downloads,
    request::{ImageRequest, Usage},
    shape,
};
use drawing::Format;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The reply to a valid request: good, or with the fault of its plan.
pub(super) fn reply(
    mut request: ImageRequest,
    plan: &CallPlan,
    downloads: &Downloads,
    base_url: &str,
) -> Reply {
    let fault = plan.fault.as_ref();
    let shape = match fault {
        Some(Fault::Shape(name)) => Some(name.as_str()),
        _ => None,
    };
    request.answers_with_url |= shape.is_some_and(shape::has_url);
    let count = if fault == Some(&Fault::Empty) {
        0
    } else {
        request.count
    };
    let mut hash = None;
    let mut data = Vec::new();
    for _ in 0..count {
        let image = generated_image::make(
            &request.scene,
            request.pixels,
            request.format,
            fault,
            plan.style,
        );
        // The next image of the same request differs from this one, but is the same in each run.
        request.scene.seed = Sha256::digest(request.scene.seed).into();
        hash.get_or_insert_with(|| image.hash());
        data.push(if fault == Some(&Fault::Elsewhere) {
            json!({"url": ELSEWHERE})
        } else if request.answers_with_url {
            let name = format!("{}.{}", image.hash(), format_name(request.format));
            let path = downloads.publish(name, request.format.mime_type(), image.bytes.clone());
            json!({"url": format!("{base_url}{path}")})
        } else {
            json!({"b64_json": image.base64()})
        });
    }
    let mut body = json!({"created": now().unix_timestamp(), "data": data});
    // Only GPT models report these fields.
    if let Some(usage) = &request.usage {
        body["background"] = "opaque".into();
        body["output_format"] = format_name(request.format).into();
        body["quality"] = request.quality.into();
        body["size"] = format!("{}x{}", request.pixels.0, request.pixels.1).into();
        body["usage"] = usage_json(usage);
    }
    let reply = match shape {
        Some(name) => shape::reply(name, body),
        None => Reply::json(200, &body),
    };
    reply.with_image_hash(hash)
}

fn usage_json(usage: &Usage) -> Value {
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

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Png => "png",
        Format::Jpeg { .. } => "jpeg",
        Format::WebP => "webp",
    }
}

//! Writes the good answer in the shapes of servers that copy `OpenAI`.

use super::super::{reply::Reply, shapes};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use serde_json::{Value, json};

/// Whether an answer in this shape has the URL of the image.
pub(super) fn has_url(name: &str) -> bool {
    matches!(
        name,
        shapes::EMPTY_BESIDE_ADDRESS | shapes::NULL_BESIDE_ADDRESS
    )
}

/// The good answer `body` in the shape of this name.
pub(super) fn reply(name: &str, mut body: Value) -> Reply {
    for image in body["data"].as_array_mut().into_iter().flatten() {
        let data = image["b64_json"].as_str().unwrap_or_default().to_owned();
        match name {
            shapes::EMPTY_BESIDE_ADDRESS => image["b64_json"] = "".into(),
            shapes::NULL_BESIDE_ADDRESS => image["b64_json"] = Value::Null,
            shapes::DATA_ADDRESS => *image = json!({"url": data_uri(&data)}),
            shapes::DATA_ADDRESS_IN_B64_JSON => image["b64_json"] = data_uri(&data).into(),
            shapes::LINES | shapes::UNESCAPED_LINES => image["b64_json"] = in_lines(&data).into(),
            shapes::URL_SAFE => {
                let bytes = BASE64_STANDARD.decode(&data).unwrap_or_default();
                image["b64_json"] = BASE64_URL_SAFE.encode(bytes).into();
            }
            shapes::UNPADDED => image["b64_json"] = data.trim_end_matches('=').into(),
            _ => {}
        }
    }
    if name == shapes::OBJECT {
        body["data"] = body["data"][0].take();
    }
    let text = body.to_string();
    let text = match name {
        shapes::UNESCAPED_LINES => text.replace("\\n", "\n"),
        shapes::ESCAPED_SLASHES => text.replace('/', "\\/"),
        shapes::LIST => format!("[{text}]"),
        shapes::BYTE_ORDER_MARK => format!("\u{FEFF}{text}"),
        shapes::TRAILING => format!("{text}\r\n\r\n<!-- served by a proxy -->\n"),
        _ => text,
    };
    Reply::raw_json(200, text)
}

fn data_uri(data: &str) -> String {
    format!("data:image/png;base64,{data}")
}

/// Lines of 76 characters, as MIME writes base64 (RFC 2045, 6.8).
fn in_lines(data: &str) -> String {
    let mut lines = String::new();
    for (place, character) in data.chars().enumerate() {
        if place > 0 && place % 76 == 0 {
            lines.push('\n');
        }
        lines.push(character);
    }
    lines
}

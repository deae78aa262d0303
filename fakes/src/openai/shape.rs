//! The shapes in which servers that copy `OpenAI` send the same good answer.

use super::super::reply::Reply;
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use serde_json::{Value, json};

/// Their names: the values of the fault `shape:<name>`.
const NAMES: &[&str] = &[
    EMPTY_BESIDE_ADDRESS,
    "null_beside_address",
    "data_address",
    "data_address_in_b64_json",
    "lines",
    "unescaped_lines",
    "url_safe",
    "unpadded",
    "escaped_slashes",
    "object",
    "list",
    "byte_order_mark",
    "trailing",
];
const EMPTY_BESIDE_ADDRESS: &str = "empty_beside_address";

pub(in super::super) fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Whether the picture is to be had at an address.
pub(super) fn is_by_address(name: &str) -> bool {
    name.ends_with("_beside_address")
}

/// The answer in that shape.
pub(super) fn reply(name: &str, mut body: Value) -> Reply {
    for picture in body["data"].as_array_mut().into_iter().flatten() {
        let data = picture["b64_json"].as_str().unwrap_or_default().to_owned();
        match name {
            EMPTY_BESIDE_ADDRESS => picture["b64_json"] = "".into(),
            "null_beside_address" => picture["b64_json"] = Value::Null,
            "data_address" => *picture = json!({"url": in_address(&data)}),
            "data_address_in_b64_json" => picture["b64_json"] = in_address(&data).into(),
            "lines" | "unescaped_lines" => picture["b64_json"] = in_lines(&data).into(),
            "url_safe" => {
                let bytes = BASE64_STANDARD.decode(&data).unwrap_or_default();
                picture["b64_json"] = BASE64_URL_SAFE.encode(bytes).into();
            }
            "unpadded" => picture["b64_json"] = data.trim_end_matches('=').into(),
            _ => {}
        }
    }
    if name == "object" {
        body["data"] = body["data"][0].take();
    }
    let text = body.to_string();
    let text = match name {
        "unescaped_lines" => text.replace("\\n", "\n"),
        "escaped_slashes" => text.replace('/', "\\/"),
        "list" => format!("[{text}]"),
        "byte_order_mark" => format!("\u{FEFF}{text}"),
        "trailing" => format!("{text}\r\n\r\n<!-- served by a proxy -->\n"),
        _ => text,
    };
    Reply::text(200, text)
}

fn in_address(data: &str) -> String {
    format!("data:image/png;base64,{data}")
}

/// As mail has it.
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

//! The JSON and the forms of OpenAI images, as far as Platen speaks them.
//!
//! Source: the types of openai 3.54.0 (`types/image_generate_params.py`, `image_edit_params.py`, `images_response.py`).

use bytes::Bytes;
use common::generation::image::MediaType;
use serde::Deserialize;
use serde_json::Value;

use crate::providers::http::Base64;

/// One part of a form.
pub(in crate::providers) enum Part {
    Text {
        name: String,
        text: String,
    },
    File {
        name: &'static str,
        file_name: String,
        media_type: MediaType,
        bytes: Bytes,
    },
}

/// Everything may be missing, and anything may be there that is not named.
#[derive(Deserialize)]
pub(super) struct Images {
    #[serde(default)]
    pub data: Option<Vec<Image>>,
    pub usage: Option<Value>,
}

#[derive(Deserialize)]
pub(super) struct Image {
    pub b64_json: Option<Base64>,
    pub url: Option<String>,
}

/// What is billed besides the picture.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    pub input_tokens: i64,
}

/// The body of an error. Other servers than OpenAI's put less into it, or leave the wrapping away.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Error {
    pub message: Value,
    #[serde(rename = "type")]
    pub kind: Value,
    pub code: Value,
}

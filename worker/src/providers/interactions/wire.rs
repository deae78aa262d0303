//! The JSON of Gemini Interactions, as far as Platen uses it.
//!
//! Source: the types of google-genai 3.4.0 (`_gaos/types/interactions`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::providers::http::Base64;

#[derive(Serialize)]
pub(super) struct CreateInteraction {
    pub model: String,
    pub input: Vec<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_instruction: Option<String>,
    pub response_format: ResponseFormat,
    #[serde(skip_serializing_if = "GenerationConfig::is_empty")]
    pub generation_config: GenerationConfig,
    /// Whether the model works in the background.
    pub background: bool,
    /// Whether Google keeps the interaction, so that it can be polled.
    pub store: bool,
}

/// One step of an interaction. The API has two dozen kinds. Kinds that are not listed here are
/// ignored.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Step {
    UserInput {
        #[serde(default)]
        content: Vec<Content>,
    },
    ModelOutput {
        #[serde(default)]
        content: Vec<Content>,
        error: Option<Error>,
    },
    Thought {
        #[serde(default)]
        summary: Vec<Content>,
    },
    #[serde(other)]
    Other,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Content {
    Text {
        #[serde(default)]
        text: String,
    },
    Image(Image),
    #[serde(other)]
    Other,
}

/// An image, as base64 or as a URL.
#[derive(Serialize, Deserialize)]
pub(super) struct Image {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Base64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// The format of the result. The API's field for the file type takes nothing but JPEG, so we leave
/// the field out and let the model choose.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ResponseFormat {
    Image {
        aspect_ratio: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        image_size: Option<String>,
        /// `inline`: the image is in the answer itself.
        delivery: String,
    },
}

#[derive(Serialize)]
pub(super) struct GenerationConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_level: Option<String>,
}

impl GenerationConfig {
    fn is_empty(&self) -> bool {
        self.seed.is_none() && self.thinking_level.is_none()
    }
}

/// An interaction, as an answer describes it. Every field may be missing, and unknown fields are
/// ignored.
#[derive(Deserialize)]
pub(super) struct Interaction {
    pub id: Option<String>,
    pub status: Option<String>,
    #[serde(default)]
    pub steps: Vec<Step>,
    #[serde(default)]
    pub errors: Vec<Error>,
    pub usage: Option<Value>,
}

/// The body of an answer whose HTTP status is not a success.
#[derive(Deserialize)]
pub(super) struct ErrorBody {
    pub error: Error,
}

/// An error. The code of an interaction's error is a word. The code of a step's error is a number
/// of `google.rpc.Code`.
#[derive(Serialize, Deserialize)]
pub(super) struct Error {
    #[serde(default)]
    pub code: Value,
    pub message: Option<String>,
}

/// The tokens that are billed besides the image.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    pub total_input_tokens: i64,
    pub total_thought_tokens: i64,
}

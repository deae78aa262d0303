//! The fields of `GenerateContentRequest` that the fake uses. `schema` has already checked the body.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    #[serde(default)]
    pub(super) contents: Vec<Content>,
    pub(super) system_instruction: Option<Content>,
    #[serde(default)]
    pub(super) generation_config: GenerationConfig,
    #[serde(default)]
    pub(super) safety_settings: Vec<Value>,
    pub(super) model_armor_config: Option<Value>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
pub(super) struct Content {
    pub(super) role: Option<String>,
    #[serde(default)]
    pub(super) parts: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    pub(super) text: Option<String>,
    pub(super) inline_data: Option<Blob>,
    pub(super) file_data: Option<Value>,
    pub(super) thought_signature: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Blob {
    pub(super) mime_type: String,
    pub(super) data: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct GenerationConfig {
    pub(super) response_modalities: Vec<String>,
    pub(super) image_config: ImageConfig,
    pub(super) thinking_config: ThinkingConfig,
    pub(super) candidate_count: Option<i32>,
    pub(super) seed: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ThinkingConfig {
    pub(super) include_thoughts: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ImageConfig {
    pub(super) aspect_ratio: Option<String>,
    pub(super) image_size: Option<String>,
    pub(super) image_output_options: OutputOptions,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct OutputOptions {
    pub(super) mime_type: Option<String>,
    pub(super) compression_quality: Option<i32>,
}

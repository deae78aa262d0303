//! The fields of `CreateModelInteraction` (Google's revision 2026-05-20) that the fake uses. Other fields are refused.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    pub(super) model: Option<String>,
    pub(super) input: Option<Value>,
    #[serde(default)]
    pub(super) background: bool,
    pub(super) store: Option<bool>,
    pub(super) stream: Option<bool>,
    pub(super) system_instruction: Option<String>,
    #[serde(default)]
    pub(super) generation_config: GenerationConfig,
    /// One format or a list of them.
    pub(super) response_format: Option<Value>,
    #[serde(default)]
    pub(super) response_modalities: Vec<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) previous_interaction_id: Option<String>,
    pub(super) safety_settings: Option<Value>,
    pub(super) service_tier: Option<String>,
    #[serde(rename = "response_mime_type")]
    _response_mime_type: Option<String>,
    // Offered by Google and refused by the fake.
    pub(super) agent: Option<Value>,
    pub(super) agent_config: Option<Value>,
    pub(super) cached_content: Option<Value>,
    pub(super) continuation_token: Option<Value>,
    pub(super) environment: Option<Value>,
    pub(super) tools: Option<Value>,
    pub(super) webhook_config: Option<Value>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ResponseFormat {
    Text {
        #[serde(rename = "mime_type")]
        _mime_type: Option<String>,
        #[serde(rename = "schema")]
        _schema: Option<Value>,
    },
    Image {
        aspect_ratio: Option<String>,
        image_size: Option<String>,
        mime_type: Option<String>,
        delivery: Option<String>,
    },
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct GenerationConfig {
    pub(super) seed: Option<i32>,
    pub(super) thinking_level: Option<String>,
    pub(super) thinking_summaries: Option<String>,
    /// Deprecated: `response_format` replaces it.
    pub(super) image_config: Option<ImageConfig>,
    #[serde(rename = "max_output_tokens")]
    _max_output_tokens: Option<u32>,
    #[serde(rename = "stop_sequences")]
    _stop_sequences: Option<Vec<String>>,
    #[serde(rename = "temperature")]
    _temperature: Option<f32>,
    #[serde(rename = "top_p")]
    _top_p: Option<f32>,
    #[serde(rename = "speech_config")]
    _speech_config: Option<Value>,
    #[serde(rename = "tool_choice")]
    _tool_choice: Option<Value>,
    #[serde(rename = "transcription_config")]
    _transcription_config: Option<Value>,
    #[serde(rename = "video_config")]
    _video_config: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ImageConfig {
    pub(super) aspect_ratio: Option<String>,
    pub(super) image_size: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Content {
    Text {
        text: String,
        #[serde(rename = "annotations")]
        _annotations: Option<Value>,
    },
    Image {
        data: Option<String>,
        mime_type: Option<String>,
        uri: Option<String>,
        #[serde(rename = "resolution")]
        _resolution: Option<String>,
    },
}

//! Reading a JSON body as Google's servers do: against the protocol's messages, refusing what they do not name.
//!
//! Proto JSON takes both `camelCase` and `snake_case` names and both alphabets of base64; what comes out has one form. The errors are worded
//! as Google words them, because people paste them into search boxes.

use super::super::{blob, google::Host};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

/// A message: its fields by their JSON name.
type Message = &'static [(&'static str, Kind)];

/// What a field may hold.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Bool,
    Int,
    Number,
    /// Base64.
    Bytes,
    /// One of a closed list; the first word is the enum's name in Google's messages.
    Enum(&'static str, &'static [&'static str]),
    /// String to string.
    Labels,
    One(Message),
    Many(&'static Self),
    /// A part of the protocol this fake takes but does not look into.
    Opaque,
}

/// `google.cloud.aiplatform.v1.GenerateContentRequest`, and the same of `google.ai.generativelanguage.v1beta`.
const REQUEST: Message = &[
    ("contents", Kind::Many(&Kind::One(CONTENT))),
    ("systemInstruction", Kind::One(CONTENT)),
    ("generationConfig", Kind::One(GENERATION_CONFIG)),
    ("safetySettings", Kind::Many(&Kind::One(SAFETY_SETTING))),
    ("labels", Kind::Labels),
    ("modelArmorConfig", Kind::Opaque),
    ("cachedContent", Kind::Text),
    ("tools", Kind::Opaque),
    ("toolConfig", Kind::Opaque),
];

const CONTENT: Message = &[
    ("role", Kind::Text),
    ("parts", Kind::Many(&Kind::One(PART))),
];

const PART: Message = &[
    ("text", Kind::Text),
    (
        "inlineData",
        Kind::One(&[
            ("mimeType", Kind::Text),
            ("data", Kind::Bytes),
            ("displayName", Kind::Text),
        ]),
    ),
    (
        "fileData",
        Kind::One(&[
            ("mimeType", Kind::Text),
            ("fileUri", Kind::Text),
            ("displayName", Kind::Text),
        ]),
    ),
    ("thought", Kind::Bool),
    ("thoughtSignature", Kind::Bytes),
    ("mediaResolution", Kind::Opaque),
    ("videoMetadata", Kind::Opaque),
];

const GENERATION_CONFIG: Message = &[
    (
        "responseModalities",
        Kind::Many(&Kind::Enum(
            "Modality",
            &["MODALITY_UNSPECIFIED", "TEXT", "IMAGE", "AUDIO", "VIDEO"],
        )),
    ),
    ("imageConfig", Kind::One(IMAGE_CONFIG)),
    ("thinkingConfig", Kind::One(THINKING_CONFIG)),
    ("candidateCount", Kind::Int),
    ("seed", Kind::Int),
    ("temperature", Kind::Number),
    ("topP", Kind::Number),
    ("topK", Kind::Number),
    ("maxOutputTokens", Kind::Int),
    ("stopSequences", Kind::Many(&Kind::Text)),
    ("presencePenalty", Kind::Number),
    ("frequencyPenalty", Kind::Number),
    ("responseLogprobs", Kind::Bool),
    ("logprobs", Kind::Int),
    ("responseMimeType", Kind::Text),
    ("responseSchema", Kind::Opaque),
    ("responseJsonSchema", Kind::Opaque),
    ("mediaResolution", Kind::Text),
    ("speechConfig", Kind::Opaque),
    ("routingConfig", Kind::Opaque),
    ("audioTimestamp", Kind::Bool),
];

const IMAGE_CONFIG: Message = &[
    ("aspectRatio", Kind::Text),
    ("imageSize", Kind::Text),
    (
        "personGeneration",
        Kind::Enum(
            "PersonGeneration",
            &[
                "PERSON_GENERATION_UNSPECIFIED",
                "ALLOW_ALL",
                "ALLOW_ADULT",
                "ALLOW_NONE",
            ],
        ),
    ),
    (
        "imageOutputOptions",
        Kind::One(&[("mimeType", Kind::Text), ("compressionQuality", Kind::Int)]),
    ),
    (V1BETA1_ONLY, Kind::Text),
];

/// Version 1 of Vertex's protocol does not name it yet.
const V1BETA1_ONLY: &str = "prominentPeople";

/// What the Developer API does not name at all.
const VERTEX_ONLY: &[&str] = &[
    "labels",
    "modelArmorConfig",
    "personGeneration",
    "imageOutputOptions",
    "routingConfig",
    "audioTimestamp",
    V1BETA1_ONLY,
];

const THINKING_CONFIG: Message = &[
    ("includeThoughts", Kind::Bool),
    ("thinkingBudget", Kind::Int),
    (
        "thinkingLevel",
        Kind::Enum(
            "ThinkingLevel",
            &[
                "THINKING_LEVEL_UNSPECIFIED",
                "MINIMAL",
                "LOW",
                "MEDIUM",
                "HIGH",
            ],
        ),
    ),
];

const SAFETY_SETTING: Message = &[
    ("category", Kind::Text),
    (
        "threshold",
        Kind::Enum(
            "HarmBlockThreshold",
            &[
                "HARM_BLOCK_THRESHOLD_UNSPECIFIED",
                "BLOCK_LOW_AND_ABOVE",
                "BLOCK_MEDIUM_AND_ABOVE",
                "BLOCK_ONLY_HIGH",
                "BLOCK_NONE",
                "OFF",
            ],
        ),
    ),
    ("method", Kind::Text),
];

/// Checks a whole request body and returns it in its one form, or every complaint, a line each.
pub(super) fn read_request(host: Host, version: &str, body: &Value) -> Result<Value, String> {
    let mut reader = Reader {
        package: match host {
            Host::Vertex => "google.cloud.aiplatform.v1",
            Host::Gemini => "google.ai.generativelanguage.v1beta",
        },
        unnamed: match (host, version) {
            (Host::Gemini, _) => VERTEX_ONLY,
            (Host::Vertex, "v1") => &[V1BETA1_ONLY],
            (Host::Vertex, _) => &[],
        },
        complaints: Vec::new(),
    };
    let request = reader.message(REQUEST, "", body);
    if reader.complaints.is_empty() {
        Ok(request)
    } else {
        Err(reader.complaints.join("\n"))
    }
}

struct Reader {
    /// Where the protocol's enums live.
    package: &'static str,
    /// Fields that this host or version has not.
    unnamed: &'static [&'static str],
    complaints: Vec<String>,
}

impl Reader {
    fn message(&mut self, message: Message, path: &str, value: &Value) -> Value {
        let Value::Object(fields) = value else {
            return self.wrong(path, "Message", value);
        };
        let mut read = Map::new();
        for (name, value) in fields {
            let known = message.iter().find(|(known, _)| {
                (known == name || snake_case(known) == *name) && !self.unnamed.contains(known)
            });
            let Some((known, kind)) = known else {
                let place = if path.is_empty() {
                    String::new()
                } else {
                    format!(" at '{path}'")
                };
                self.complaints.push(format!(
                    "Invalid JSON payload received. Unknown name \"{name}\"{place}: Cannot find field."
                ));
                continue;
            };
            // Proto JSON: null is the same as leaving the field out.
            if !value.is_null() {
                let path = if path.is_empty() {
                    snake_case(known)
                } else {
                    format!("{path}.{}", snake_case(known))
                };
                read.insert((*known).to_owned(), self.field(*kind, &path, value));
            }
        }
        Value::Object(read)
    }

    fn field(&mut self, kind: Kind, path: &str, value: &Value) -> Value {
        match (kind, value) {
            (Kind::Opaque, _)
            | (Kind::Text, Value::String(_))
            | (Kind::Bool, Value::Bool(_))
            | (Kind::Number, Value::Number(_)) => value.clone(),
            (Kind::Int, _) => match integer(value) {
                Some(number) => number.into(),
                None => self.wrong(path, "TYPE_INT32", value),
            },
            (Kind::Bytes, Value::String(text)) => match blob::decode(text) {
                Ok(bytes) => BASE64_STANDARD.encode(bytes).into(),
                Err(_) => {
                    self.complaints.push(format!(
                        "Invalid value at '{path}' (TYPE_BYTES), Base64 decoding failed"
                    ));
                    Value::Null
                }
            },
            (Kind::Enum(_, words), Value::String(word)) if words.contains(&word.as_str()) => {
                value.clone()
            }
            (Kind::Enum(name, _), _) => {
                let name = format!("type.googleapis.com/{}.{name}", self.package);
                self.wrong(path, &name, value)
            }
            (Kind::Labels, Value::Object(labels)) if labels.values().all(Value::is_string) => {
                value.clone()
            }
            (Kind::One(message), _) => self.message(message, path, value),
            (Kind::Many(kind), Value::Array(items)) => (items.iter().enumerate())
                .map(|(index, item)| self.field(*kind, &format!("{path}[{index}]"), item))
                .collect(),
            // Proto JSON takes a lone value where a list is meant.
            (Kind::Many(kind), _) => {
                Value::Array(vec![self.field(*kind, &format!("{path}[0]"), value)])
            }
            (Kind::Text, _) => self.wrong(path, "TYPE_STRING", value),
            (Kind::Bool, _) => self.wrong(path, "TYPE_BOOL", value),
            (Kind::Number, _) => self.wrong(path, "TYPE_FLOAT", value),
            (Kind::Bytes, _) => self.wrong(path, "TYPE_BYTES", value),
            (Kind::Labels, _) => self.wrong(path, "Map", value),
        }
    }

    fn wrong(&mut self, path: &str, kind: &str, value: &Value) -> Value {
        let shown: String = value.to_string().chars().take(120).collect();
        self.complaints
            .push(format!("Invalid value at '{path}' ({kind}), {shown}"));
        Value::Null
    }
}

/// An int32; proto JSON takes it written as a string as well.
fn integer(value: &Value) -> Option<i32> {
    match value {
        Value::Number(number) => i32::try_from(number.as_i64()?).ok(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

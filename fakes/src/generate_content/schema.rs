//! Checks a JSON body against the protocol's messages, as Google's servers do. Unknown fields are refused.
//!
//! The JSON form of Protocol Buffers (<https://protobuf.dev/programming-guides/json/>) accepts `camelCase` and
//! `snake_case` names, and both alphabets of base64. The result has only `camelCase` names and the standard alphabet.
//! The errors have Google's words, because people search the web for them.

use super::super::{blob, google::Host};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

/// A message: the JSON names and the kinds of its fields.
type Message = &'static [(&'static str, Kind)];

/// The values that a field accepts.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Bool,
    Int,
    Number,
    /// Base64.
    Bytes,
    /// An enum: its name in Google's messages, and its values.
    Enum(&'static str, &'static [&'static str]),
    /// An object of strings.
    Labels,
    /// An object with these fields.
    One(Message),
    /// A list of values of this kind.
    Many(&'static Self),
    /// Any value is accepted and not checked.
    Opaque,
}

/// The message `GenerateContentRequest` of `google.cloud.aiplatform.v1` and of `google.ai.generativelanguage.v1beta`.
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

/// A field that version `v1` of Vertex AI does not have yet.
const V1BETA1_ONLY: &str = "prominentPeople";

/// Fields that the Developer API does not have.
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

/// Checks a request body and returns its normal form. The error has one line for each problem.
pub(super) fn read_request(host: Host, version: &str, body: &Value) -> Result<Value, String> {
    let mut reader = Reader {
        package: match host {
            Host::Vertex => "google.cloud.aiplatform.v1",
            Host::Gemini => "google.ai.generativelanguage.v1beta",
        },
        missing: match (host, version) {
            (Host::Gemini, _) => VERTEX_ONLY,
            (Host::Vertex, "v1") => &[V1BETA1_ONLY],
            (Host::Vertex, _) => &[],
        },
        problems: Vec::new(),
    };
    let request = reader.message(REQUEST, "", body);
    if reader.problems.is_empty() {
        Ok(request)
    } else {
        Err(reader.problems.join("\n"))
    }
}

struct Reader {
    /// The package of the protocol's enums.
    package: &'static str,
    /// Fields that this host or version does not have.
    missing: &'static [&'static str],
    /// A line for each problem found so far.
    problems: Vec<String>,
}

impl Reader {
    /// Checks an object, and returns its normal form. `path` is the place of the object in the request, as Google's
    /// messages name it.
    fn message(&mut self, message: Message, path: &str, value: &Value) -> Value {
        let Value::Object(fields) = value else {
            return self.wrong(path, "Message", value);
        };
        let mut read = Map::new();
        for (name, value) in fields {
            let known = message.iter().find(|(known, _)| {
                (known == name || snake_case(known) == *name) && !self.missing.contains(known)
            });
            let Some((known, kind)) = known else {
                let place = if path.is_empty() {
                    String::new()
                } else {
                    format!(" at '{path}'")
                };
                self.problems.push(format!(
                    "Invalid JSON payload received. Unknown name \"{name}\"{place}: Cannot find field."
                ));
                continue;
            };
            // In the JSON form of Protocol Buffers, null means that the field is missing.
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

    /// Checks a value of this kind, and returns its normal form.
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
                    self.problems.push(format!(
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
            // Google accepts a single value in place of a list.
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

    /// Notes that a value is not of this kind. Returns null in place of the value.
    fn wrong(&mut self, path: &str, kind: &str, value: &Value) -> Value {
        let shown: String = value.to_string().chars().take(120).collect();
        self.problems
            .push(format!("Invalid value at '{path}' ({kind}), {shown}"));
        Value::Null
    }
}

/// The value of an int32. The JSON form of Protocol Buffers also accepts a string.
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

//! Reads base64 in JSON fields, and summarizes files for the journal.

use base64::{
    DecodeError, Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Decodes a base64 field. The JSON form of Protocol Buffers accepts both alphabets, with or without padding. Google's
/// Python client sends the URL-safe alphabet.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, DecodeError> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) {
        &alphabet::URL_SAFE
    } else {
        &alphabet::STANDARD
    };
    GeneralPurpose::new(alphabet, LENIENT).decode(text)
}

/// The summary of a file in the journal: its SHA-256 and its length.
pub(super) fn file_summary(bytes: &[u8]) -> Value {
    json!({"sha256": hex::encode(Sha256::digest(bytes)), "bytes": bytes.len()})
}

/// A copy of a body with [`file_summary`] in place of each field `data`. Data that is not base64 is summarized like an
/// empty file.
pub(super) fn without_data(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(without_data).collect(),
        Value::Object(fields) => (fields.iter())
            .map(|(name, value)| {
                let value = match value {
                    Value::String(data) if name == "data" => {
                        file_summary(&decode(data).unwrap_or_default())
                    }
                    value => without_data(value),
                };
                (name.clone(), value)
            })
            .collect(),
        value => value.clone(),
    }
}

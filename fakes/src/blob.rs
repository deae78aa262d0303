//! Bytes inside JSON.

use base64::{
    DecodeError, Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The bytes of a base64 field. Google's JSON takes both alphabets, padded or not, and its Python client sends the
/// URL-safe one.
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

/// What the journal keeps of some bytes.
pub(super) fn described(bytes: &[u8]) -> Value {
    json!({"sha256": hex::encode(Sha256::digest(bytes)), "bytes": bytes.len()})
}

/// A copy of a body in which every field `data` is only [`described`].
pub(super) fn without_data(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(without_data).collect(),
        Value::Object(fields) => (fields.iter())
            .map(|(name, value)| {
                let value = match value {
                    Value::String(data) if name == "data" => {
                        described(&decode(data).unwrap_or_default())
                    }
                    value => without_data(value),
                };
                (name.clone(), value)
            })
            .collect(),
        value => value.clone(),
    }
}

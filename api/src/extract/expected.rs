//! What the contract expects at a place, in words: made from the schemas of `/openapi.json`, so that an error and the contract
//! cannot disagree.

use serde_json::Value;

/// What the contract says of a place it does not know.
static NOTHING: Value = Value::Null;

/// The schema of the place a JSON pointer names; `null` where the contract knows no such place.
pub(super) fn at<'a>(schema: &'a Value, pointer: &str) -> &'a Value {
    let mut here = plain(schema);
    for part in pointer.split('/').skip(1) {
        here = if part.contains('~') {
            inside(here, &part.replace("~1", "/").replace("~0", "~"))
        } else {
            inside(here, part)
        };
    }
    here
}

/// The schema of a field of an object, or of an item of a list; `null` where the contract knows none.
pub(super) fn inside<'a>(here: &'a Value, key: &str) -> &'a Value {
    let found = [
        &here["properties"][key],
        &here["items"],
        &here["additionalProperties"],
    ];
    let found = found.into_iter().find(|schema| schema.is_object());
    found.map_or(&NOTHING, plain)
}

/// A schema without the part that says that it may be left out.
pub(super) fn plain(schema: &Value) -> &Value {
    let choices = schema["oneOf"]
        .as_array()
        .or_else(|| schema["anyOf"].as_array());
    choices
        .and_then(|choices| choices.iter().find(|choice| choice["type"] != "null"))
        .unwrap_or(schema)
}

/// The fields an object may have.
pub(super) fn fields(schema: &Value) -> Vec<&str> {
    let properties = schema["properties"].as_object();
    properties
        .into_iter()
        .flat_map(|fields| fields.keys().map(String::as_str))
        .collect()
}

/// What a schema takes, in words that go after "expected".
pub(super) fn expected(schema: &Value) -> String {
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        return format!("one of {}", words.join(", "));
    }
    match kind(schema) {
        Some("string") if schema["format"] == "date-time" => {
            "a time like 2026-11-22T18:00:00Z (RFC 3339)".to_owned()
        }
        Some("string") => "a string".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some("integer") => format!("a whole number{}", bounds(schema)),
        Some("number") => format!("a number{}", bounds(schema)),
        Some("array") => "a list".to_owned(),
        Some("object") => "an object".to_owned(),
        _ => "another value".to_owned(),
    }
}

/// The kind of value a schema takes, beside `null`.
pub(super) fn kind(schema: &Value) -> Option<&str> {
    match &schema["type"] {
        Value::Array(kinds) => kinds.iter().find(|kind| **kind != "null")?.as_str(),
        kind => kind.as_str(),
    }
}

fn bounds(schema: &Value) -> String {
    let bound = |word: &str| schema[word].is_number().then(|| schema[word].to_string());
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => format!(" from {least} to {most}"),
        (Some(least), None) => format!(", at least {least}"),
        (None, Some(most)) => format!(", at most {most}"),
        (None, None) => String::new(),
    }
}

/// What was sent instead, in words that go after "not".
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_place_is_described_by_its_schema() {
        let schema = json!({"type": "object", "properties": {
            "size": {"type": ["string", "null"], "enum": ["1K", "2K", null]},
            "encoding": {"oneOf": [{"type": "null"}, {"type": "object", "properties": {"quality": {"type": ["integer", "null"], "minimum": 1, "maximum": 100}}}]},
            "inputs": {"type": "array", "items": {"type": "object", "properties": {"role": {"type": "string"}}}},
            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
            "run_at": {"type": "string", "format": "date-time"},
        }});
        for (pointer, words) in [
            ("", "an object"),
            ("/size", "one of 1K, 2K"),
            ("/encoding", "an object"),
            ("/encoding/quality", "a whole number from 1 to 100"),
            ("/inputs", "a list"),
            ("/inputs/3/role", "a string"),
            ("/metadata/a~1b", "a string"),
            ("/run_at", "a time like 2026-11-22T18:00:00Z (RFC 3339)"),
            ("/nothing/at/all", "another value"),
        ] {
            assert_eq!(expected(at(&schema, pointer)), words, "{pointer}");
        }
    }
}

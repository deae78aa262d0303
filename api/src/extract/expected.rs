//! Describes in words what a place of a body or query may contain. The words are made from the schemas of `/openapi.json`, so
//! errors and the contract cannot disagree.

use serde_json::Value;

/// The schema of a place that the contract does not know.
static UNKNOWN: Value = Value::Null;

/// The schema of the place a JSON pointer (RFC 6901) names; `null` if the contract does not know the place.
pub(crate) fn schema_at<'a>(schema: &'a Value, pointer: &str) -> &'a Value {
    let mut current = without_null(schema);
    for part in pointer.split('/').skip(1) {
        current = if part.contains('~') {
            child(current, &part.replace("~1", "/").replace("~0", "~"))
        } else {
            child(current, part)
        };
    }
    current
}

/// The schema of the field `key` of an object, or of the items of a list, which all have one schema. `null` if the contract does
/// not know it.
pub(super) fn child<'a>(schema: &'a Value, key: &str) -> &'a Value {
    let candidates = [
        &schema["properties"][key],
        &schema["items"],
        &schema["additionalProperties"],
    ];
    let found = candidates.into_iter().find(|schema| schema.is_object());
    found.map_or(&UNKNOWN, without_null)
}

/// If a schema is a choice (`oneOf` or `anyOf`), returns the first choice that is not `null`. Returns any other schema unchanged.
pub(super) fn without_null(schema: &Value) -> &Value {
    let choices = schema["oneOf"]
        .as_array()
        .or_else(|| schema["anyOf"].as_array());
    choices
        .and_then(|choices| choices.iter().find(|choice| choice["type"] != "null"))
        .unwrap_or(schema)
}

/// The names of the fields an object may have.
pub(super) fn fields(schema: &Value) -> Vec<&str> {
    let properties = schema["properties"].as_object();
    properties
        .into_iter()
        .flat_map(|fields| fields.keys().map(String::as_str))
        .collect()
}

/// What a schema allows, in words that follow "expected".
pub(crate) fn expected(schema: &Value) -> String {
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

/// The JSON type a schema allows besides `null`.
pub(super) fn kind(schema: &Value) -> Option<&str> {
    match &schema["type"] {
        Value::Array(kinds) => kinds.iter().find(|kind| **kind != "null")?.as_str(),
        kind => kind.as_str(),
    }
}

fn bounds(schema: &Value) -> String {
    let bound = |name: &str| schema[name].is_number().then(|| schema[name].to_string());
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => format!(" from {least} to {most}"),
        (Some(least), None) => format!(", at least {least}"),
        (None, Some(most)) => format!(", at most {most}"),
        (None, None) => String::new(),
    }
}

/// What was sent, in words that follow "not".
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
    fn a_schema_is_put_into_words() {
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
            assert_eq!(expected(schema_at(&schema, pointer)), words, "{pointer}");
        }
    }
}

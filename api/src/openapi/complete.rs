//! What holds for many routes is written here once and stands in the document at each of them.

use serde_json::{Map, Value, json};

use crate::idempotency;

/// What an answer leads to: an operation, the status of its answer, and the operation whose `id` stands at a place in it.
const LINKS: [(&str, &str, &str, &str); 15] = [
    ("create_job", "202", "get_job", "/id"),
    ("create_job", "202", "cancel_job", "/id"),
    ("get_job", "200", "cancel_job", "/id"),
    ("get_job", "200", "get_artifact", "/artifacts/0/id"),
    ("list_jobs", "200", "get_job", "/data/0/id"),
    ("get_artifact", "200", "get_artifact_content", "/id"),
    ("list_models", "200", "get_model", "/data/0/id"),
    ("create_upload", "201", "get_upload", "/id"),
    ("create_upload", "201", "delete_upload", "/id"),
    ("list_uploads", "200", "get_upload", "/data/0/id"),
    ("create_direct_upload", "200", "complete_upload", "/id"),
    ("complete_upload", "201", "get_upload", "/id"),
    ("list_all_jobs", "200", "get_timeline", "/data/0/job/id"),
    ("pause", "201", "resume", "/id"),
    ("list_pauses", "200", "resume", "/data/0/id"),
];

/// Completes the document that the handlers have written.
pub(super) fn complete(mut document: Value) -> Value {
    for path in objects(&mut document["paths"]) {
        for operation in objects(path) {
            failures(operation);
            links(operation);
            keys(operation);
        }
    }
    described(&mut document);
    let bodies: Vec<String> = bodies(&document);
    for schema in bodies {
        nullable(&mut document["components"]["schemas"][&schema]);
    }
    document
}

/// A description beside an inline schema comes as a second schema, of an object, which no string fits: it belongs to the first.
fn described(schema: &mut Value) {
    let both = schema.get_mut("allOf").and_then(Value::as_array_mut);
    if let Some([Value::Object(first), Value::Object(second)]) = both.map(Vec::as_mut_slice)
        && second
            .keys()
            .all(|key| ["type", "description"].contains(&key.as_str()))
        && !first.contains_key("$ref")
    {
        let mut whole = std::mem::take(first);
        whole.extend(
            second
                .remove("description")
                .map(|text| ("description".to_owned(), text)),
        );
        *schema = Value::Object(whole);
    }
    match schema {
        Value::Object(fields) => fields.values_mut().for_each(described),
        Value::Array(items) => items.iter_mut().for_each(described),
        _ => {}
    }
}

/// Adds the problems that any such operation can answer with, where its handler says nothing of its own.
fn failures(operation: &mut Value) {
    let has = |field: &str| {
        operation[field]
            .as_array()
            .is_some_and(|list| !list.is_empty())
    };
    let (guarded, parameters) = (has("security"), has("parameters"));
    let body = operation["requestBody"]["content"].as_object();
    let (takes_body, takes_json) = (
        body.is_some(),
        body.is_some_and(|kinds| kinds.contains_key("application/json")),
    );
    let any = [
        (
            guarded || parameters || takes_body,
            "400",
            "A header or a parameter is not usable, or the body is not JSON",
        ),
        (guarded, "401", "Another key is needed, or one at all"),
        (
            takes_body,
            "413",
            "The body is too large, as it is or decoded",
        ),
        (
            takes_body,
            "415",
            "The body is not declared as JSON, or encoded in a way we do not know",
        ),
        (
            takes_json,
            "422",
            "The request cannot be carried out as it is: `errors` says why, place by place",
        ),
        (
            true,
            "429",
            "Too many requests came: repeat this one after `Retry-After` seconds",
        ),
        (
            guarded,
            "503",
            "Repeat the request after `Retry-After` seconds",
        ),
    ];
    let responses = operation["responses"].as_object_mut();
    let Some(responses) = responses else { return };
    for (_, status, description) in any.into_iter().filter(|(can, ..)| *can) {
        responses.entry(status).or_insert_with(|| {
            json!({
                "description": description,
                "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } }
            })
        });
    }
}

/// Says what an `Idempotency-Key` is, wherever one is taken.
fn keys(operation: &mut Value) {
    let parameters = operation
        .get_mut("parameters")
        .and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        if parameter["name"] == "Idempotency-Key" {
            parameter["schema"]["pattern"] = json!(idempotency::PATTERN);
        }
    }
}

fn links(operation: &mut Value) {
    let id = operation["operationId"].clone();
    for (_, status, to, place) in LINKS.into_iter().filter(|(from, ..)| id == *from) {
        operation["responses"][status]["links"][to] = json!({
            "operationId": to,
            "parameters": { "id": format!("$response.body#{place}") }
        });
    }
}

/// The names of the schemas of all bodies.
pub(crate) fn bodies(document: &Value) -> Vec<String> {
    let paths = document["paths"]
        .as_object()
        .into_iter()
        .flat_map(Map::values);
    let operations = paths.filter_map(Value::as_object).flat_map(Map::values);
    operations
        .filter_map(|operation| {
            let body = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
            Some(body.as_str()?.rsplit('/').next()?.to_owned())
        })
        .collect()
}

/// Says of every field that may be left out that it may be `null`: that is the same everywhere.
pub fn nullable(schema: &mut Value) {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, field) in schema.get_mut("properties").into_iter().flat_map(fields) {
        nullable(field);
        if !required.contains(&json!(name)) {
            or_null(field);
        }
    }
    if schema["items"].is_object() {
        nullable(&mut schema["items"]);
    }
    if schema["additionalProperties"].is_object() {
        or_null(&mut schema["additionalProperties"]);
    }
    let choices = schema.get_mut("oneOf").and_then(Value::as_array_mut);
    for choice in choices.into_iter().flatten() {
        nullable(choice);
    }
}

fn or_null(schema: &mut Value) {
    if let Some(kind) = schema["type"].as_str() {
        schema["type"] = json!([kind, "null"]);
    }
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut)
        && !words.contains(&Value::Null)
    {
        words.push(Value::Null);
    }
}

fn fields(object: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    object.as_object_mut().into_iter().flatten()
}

fn objects(object: &mut Value) -> impl Iterator<Item = &mut Value> {
    fields(object).map(|(_, value)| value)
}

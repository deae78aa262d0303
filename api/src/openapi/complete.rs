//! Completes the generated document with everything that is the same for many routes, so that the handlers need not repeat it.

use serde_json::{Map, Value, json};

use crate::idempotency;

/// Links between operations: an operation, the status of its answer, the operation that can be called next, and the JSON pointer to the
/// `id` for it in the answer.
const LINKS: [(&str, &str, &str, &str); 20] = [
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
    ("create_key", "201", "get_key", "/id"),
    ("create_key", "201", "rotate_key", "/id"),
    ("create_key", "201", "revoke_key", "/id"),
    ("rotate_key", "201", "get_key", "/id"),
    ("list_keys", "200", "get_key", "/data/0/id"),
    ("list_all_jobs", "200", "get_timeline", "/data/0/job/id"),
    ("pause", "201", "resume", "/id"),
    ("list_pauses", "200", "resume", "/data/0/id"),
];

/// Descriptions of parameters that mean the same everywhere. utoipa drops the description of a parameter with a schema of its own.
const PARAMETERS: [(&str, &str); 5] = [
    ("Idempotency-Key", idempotency::DESCRIPTION),
    ("limit", "The most items to return."),
    (
        "starting_after",
        "The `id` of the last item you have; in the statement of credits its `seq`. The next items of the list follow.",
    ),
    ("tenant", "Only items of this tenant."),
    ("job", "Only items of this job."),
];

/// Completes the document that was generated from the handlers.
pub(super) fn complete(mut document: Value) -> Value {
    for path in values(&mut document["paths"]) {
        for operation in values(path) {
            add_problems(operation);
            add_links(operation);
            describe_parameters(operation);
        }
    }
    merge_descriptions(&mut document);
    refer_to_items(&mut document);
    for schema in body_schemas(&document) {
        make_nullable(&mut document["components"]["schemas"][&schema]);
    }
    document
}

/// utoipa puts the description of an inlined schema into a second schema of type object, and combines both with `allOf`. No string
/// would be valid for both. So the description is moved into the first schema. The list there of what each value means stays.
///
/// A schema that may be `null` has its description beside the `$ref`, inside the first choice of `oneOf`. It is moved out, to the
/// schema itself, where readers look for it.
fn merge_descriptions(schema: &mut Value) {
    let parts = schema.get_mut("allOf").and_then(Value::as_array_mut);
    if let Some([Value::Object(first), Value::Object(second)]) = parts.map(Vec::as_mut_slice)
        && second
            .keys()
            .all(|key| ["type", "description"].contains(&key.as_str()))
        && !first.contains_key("$ref")
    {
        let mut whole = std::mem::take(first);
        if let Some(Value::String(mut text)) = second.remove("description") {
            // The list of values begins like this: see `Reason` in `routes/jobs/waiting.rs`.
            let own = whole.get("description").and_then(Value::as_str);
            if let Some(values) = own.and_then(|own| own.find("\n\n- `").map(|at| &own[at..])) {
                text.push_str(values);
            }
            whole.insert("description".to_owned(), text.into());
        }
        *schema = Value::Object(whole);
    }
    let is_described = schema.get("description").is_some();
    let nullable = schema.get_mut("oneOf").and_then(Value::as_array_mut);
    if let Some([Value::Object(first), second]) = nullable.map(Vec::as_mut_slice)
        && !is_described
        && first.contains_key("$ref")
        && *second == json!({ "type": "null" })
        && let Some(text) = first.remove("description")
    {
        schema["description"] = text;
    }
    match schema {
        Value::Object(fields) => fields.values_mut().for_each(merge_descriptions),
        Value::Array(items) => items.iter_mut().for_each(merge_descriptions),
        _ => {}
    }
}

/// Adds the error statuses that operations of this kind can answer with (for example all that take a body), unless the handler
/// describes them. Then gives every error answer that has no body of its own the body of a problem.
fn add_problems(operation: &mut Value) {
    let has = |field: &str| {
        operation[field]
            .as_array()
            .is_some_and(|list| !list.is_empty())
    };
    let (needs_key, has_parameters) = (has("security"), has("parameters"));
    let body = operation["requestBody"]["content"].as_object();
    let (has_body, has_json_body) = (
        body.is_some(),
        body.is_some_and(|types| types.contains_key("application/json")),
    );
    let problems = [
        (
            needs_key || has_parameters || has_body,
            "400",
            "A header or a parameter is not usable, or the body is not JSON",
        ),
        (needs_key, "401", "The API key is missing or not valid"),
        (
            needs_key,
            "403",
            "The caller does not hold the permission that `x-permission` names",
        ),
        (
            has_body,
            "413",
            "The body is too large, as sent or decompressed",
        ),
        (
            has_body,
            "415",
            "The body is not declared as JSON, or compressed in an unknown way",
        ),
        (
            has_json_body,
            "422",
            "The request is not valid: `errors` says what is wrong at which place",
        ),
        (
            true,
            "429",
            "Too many requests were sent: repeat this one after `Retry-After` seconds",
        ),
        (
            needs_key,
            "503",
            "The service cannot answer: repeat the request after `Retry-After` seconds",
        ),
    ];
    let responses = operation["responses"].as_object_mut();
    let Some(responses) = responses else { return };
    for (_, status, description) in problems.into_iter().filter(|(applies, ..)| *applies) {
        responses
            .entry(status)
            .or_insert_with(|| json!({ "description": description }));
    }
    for (status, response) in responses {
        if status.starts_with(['4', '5']) && response["content"].is_null() {
            response["content"] = json!({
                "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } }
            });
        }
    }
}

/// utoipa copies the schema of the items into the schema of a generic list. This function makes the list refer to the items' own
/// schema instead, as everywhere else.
fn refer_to_items(document: &mut Value) {
    let schemas = &mut document["components"]["schemas"];
    let names: Vec<String> = fields(schemas).map(|(name, _)| name.clone()).collect();
    for name in &names {
        let item = name
            .strip_prefix("Page_")
            .or_else(|| name.strip_prefix("List_"));
        if let Some(item) = item.filter(|item| names.iter().any(|name| name == item)) {
            schemas[name]["properties"]["data"]["items"] =
                json!({ "$ref": format!("#/components/schemas/{item}") });
        }
    }
}

/// Describes the parameters that mean the same everywhere, and adds the pattern of `Idempotency-Key`.
fn describe_parameters(operation: &mut Value) {
    let parameters = operation
        .get_mut("parameters")
        .and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        let description = PARAMETERS
            .iter()
            .find(|(name, _)| parameter["name"] == *name);
        if let Some((_, description)) = description {
            parameter["description"] = json!(description);
        }
        if parameter["name"] == "Idempotency-Key" {
            parameter["schema"]["pattern"] = json!(idempotency::PATTERN);
        }
    }
}

/// Adds the links that begin at an operation.
fn add_links(operation: &mut Value) {
    let id = operation["operationId"].clone();
    for (_, status, to, pointer) in LINKS.into_iter().filter(|(from, ..)| id == *from) {
        operation["responses"][status]["links"][to] = json!({
            "operationId": to,
            "parameters": { "id": format!("$response.body#{pointer}") }
        });
    }
}

/// The names of the schemas of all request bodies.
pub(crate) fn body_schemas(document: &Value) -> Vec<String> {
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

/// Allows `null` for every optional field of a body, because a `null` field counts as missing.
pub fn make_nullable(schema: &mut Value) {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, field) in schema.get_mut("properties").into_iter().flat_map(fields) {
        make_nullable(field);
        if !required.contains(&json!(name)) {
            allow_null(field);
        }
    }
    if schema["items"].is_object() {
        make_nullable(&mut schema["items"]);
    }
    if schema["additionalProperties"].is_object() {
        allow_null(&mut schema["additionalProperties"]);
    }
    let choices = schema.get_mut("oneOf").and_then(Value::as_array_mut);
    for choice in choices.into_iter().flatten() {
        make_nullable(choice);
    }
}

/// Allows `null` in addition to the type and the values that a schema allows.
pub(crate) fn allow_null(schema: &mut Value) {
    if let Some(single_type) = schema["type"].as_str() {
        schema["type"] = json!([single_type, "null"]);
    }
    if let Some(values) = schema.get_mut("enum").and_then(Value::as_array_mut)
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
}

/// The fields of an object, with their names; none if the value is not an object.
fn fields(object: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    object.as_object_mut().into_iter().flatten()
}

/// The values of the fields of an object; none if the value is not an object.
fn values(object: &mut Value) -> impl Iterator<Item = &mut Value> {
    fields(object).map(|(_, value)| value)
}

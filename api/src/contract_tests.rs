//! Tests of `/openapi.json`: a snapshot of the contract, and rules for every field of every body in it.

use serde_json::{Value, json};

use crate::error::Problem;
use crate::extract::{expected, json, schema_at};
use crate::openapi;
use crate::routes::admin::Reason;
use crate::routes::admin::jobs::BulkRequest;
use crate::routes::admin::pauses::PauseBody;
use crate::routes::admin::tenants::Adjustment;
use crate::routes::jobs::create::draft::CreateJob;
use crate::routes::keys::create::CreateKey;
use crate::routes::keys::rotate::RotateKey;

#[test]
fn the_contract_changes_on_purpose_only() {
    let document = openapi::document(&crate::router::documented_routes().into_openapi());
    let document: Value = serde_json::from_slice(&document).unwrap();
    insta::assert_json_snapshot!("openapi", document);
}

#[test]
fn every_field_and_every_value_is_described() {
    let document = openapi::document(&crate::router::documented_routes().into_openapi());
    let document: Value = serde_json::from_slice(&document).unwrap();
    let mut undescribed = Vec::new();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        find_undescribed(schema, name, "", &mut undescribed);
    }
    assert_eq!(undescribed, Vec::<String>::new());
}

/// Fields without a description, and values of which no description says what they mean. `outer` describes the field that has this schema.
fn find_undescribed(schema: &Value, path: &str, outer: &str, found: &mut Vec<String>) {
    if !schema.is_object() {
        return;
    }
    let description = schema["description"].as_str().unwrap_or(outer);
    for value in schema["enum"].as_array().into_iter().flatten() {
        // An aspect ratio is a value that explains itself.
        let Some(value) = value.as_str().filter(|_| !path.ends_with(".aspect_ratio")) else {
            continue;
        };
        if !description.contains(&format!("`{value}`")) {
            found.push(format!("{path}: {value}"));
        }
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if field["description"].as_str().is_none_or(str::is_empty) {
            found.push(path.clone());
        }
        find_undescribed(field, &path, "", found);
    }
    for part in ["items", "additionalProperties"] {
        find_undescribed(&schema[part], path, description, found);
    }
    for part in ["oneOf", "anyOf", "allOf"] {
        for schema in schema[part].as_array().into_iter().flatten() {
            find_undescribed(schema, path, description, found);
        }
    }
}

type Read = fn(&[u8]) -> Result<(), Problem>;

/// How each body is parsed, by the name of its schema.
const BODIES: [(&str, Read); 8] = [
    ("CreateJob", |body| json::<CreateJob>(body).map(drop)),
    ("CreateKey", |body| json::<CreateKey>(body).map(drop)),
    ("RotateKey", |body| json::<RotateKey>(body).map(drop)),
    ("BulkRequest", |body| json::<BulkRequest>(body).map(drop)),
    ("PauseBody", |body| json::<PauseBody>(body).map(drop)),
    ("Adjustment", |body| json::<Adjustment>(body).map(drop)),
    ("Reason", |body| json::<Reason>(body).map(drop)),
    ("Retention", |body| {
        json::<domain::retention::Retention>(body).map(drop)
    }),
];

/// A field of a body: its pointer and whether it is required.
struct Field {
    pointer: String,
    required: bool,
}

/// Every field of a schema, also those inside lists and objects.
fn fields(schema: &Value, begin: &str, found: &mut Vec<Field>) {
    let plain = schema_at(schema, "");
    for (name, field) in plain["properties"].as_object().into_iter().flatten() {
        let pointer = format!("{begin}/{name}");
        fields(field, &pointer, found);
        let required = plain["required"].as_array();
        found.push(Field {
            required: required.is_some_and(|names| names.contains(&json!(name))),
            pointer,
        });
    }
    if plain["items"].is_object() {
        fields(&plain["items"], &format!("{begin}/0"), found);
    }
}

/// A body with a value at one place; besides it only what is required.
fn with(schema: &Value, pointer: &str, value: Value) -> Value {
    let plain = schema_at(schema, "");
    if pointer.is_empty() {
        return value;
    }
    let (name, rest) = pointer[1..].split_once('/').map_or_else(
        || (&pointer[1..], String::new()),
        |(name, rest)| (name, format!("/{rest}")),
    );
    if plain["items"].is_object() {
        return json!([with(&plain["items"], &rest, value)]);
    }
    let mut body = json!({});
    for required in plain["required"].as_array().into_iter().flatten() {
        let required = required.as_str().unwrap();
        body[required] = valid_value(&plain["properties"][required]);
    }
    body[name] = with(&plain["properties"][name], &rest, value);
    body
}

fn valid_value(schema: &Value) -> Value {
    match expected(schema) {
        number if number.starts_with("a whole") => json!(7),
        _ => json!("words"),
    }
}

fn every_field() -> Vec<(Read, Value, Field)> {
    let document = openapi::document(&crate::router::documented_routes().into_openapi());
    let document: Value = serde_json::from_slice(&document).unwrap();
    let mut all = Vec::new();
    let mut named: Vec<String> = openapi::body_schemas(&document);
    named.sort();
    named.dedup();
    assert_eq!(named.len(), BODIES.len(), "{named:?}");
    for name in named {
        let (_, read) = BODIES
            .iter()
            .find(|(known, _)| *known == name)
            .expect("every body is read here");
        let schema = &document["components"]["schemas"][&name];
        let mut found = Vec::new();
        fields(schema, "", &mut found);
        assert!(!found.is_empty(), "{name}");
        all.extend(
            found
                .into_iter()
                .map(|field| (*read, schema.clone(), field)),
        );
    }
    assert!(all.len() > 40, "{}", all.len());
    all
}

#[test]
fn every_optional_field_may_be_null() {
    for (read, schema, field) in every_field() {
        let body = with(&schema, &field.pointer, Value::Null);
        let read = read(body.to_string().as_bytes());
        if !field.required {
            assert!(read.is_ok(), "{body}: {:?}", read.err());
            let types = raw_schema_at(&schema, &field.pointer);
            assert!(
                types.to_string().contains("\"null\""),
                "{}: {types}",
                field.pointer
            );
        }
    }
}

/// The schema of a field exactly as the document has it.
fn raw_schema_at(schema: &Value, pointer: &str) -> Value {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    schema_at(schema, parent)["properties"][name].clone()
}

#[test]
fn no_error_names_a_rust_type() {
    const WORDS: [&str; 24] = [
        "u8",
        "u16",
        "u32",
        "u64",
        "i8",
        "i16",
        "i32",
        "i64",
        "f64",
        "usize",
        "struct",
        "enum",
        "variant",
        "tuple",
        "sequence",
        "a map",
        "invalid type",
        "invalid value",
        "missing field",
        "unknown field",
        "Option",
        "::",
        "..",
        "at line",
    ];
    let values = [
        json!(true),
        json!(7),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!("x"),
        json!([]),
        json!([[]]),
        json!({}),
        json!({"a": 1}),
    ];
    let mut refused = 0;
    for (read, schema, field) in every_field() {
        for value in &values {
            let body = with(&schema, &field.pointer, value.clone());
            let Err(problem) = read(body.to_string().as_bytes()) else {
                continue;
            };
            refused += 1;
            let report = problem.body("", "");
            let detail = report["detail"].as_str().unwrap();
            let pointer = report["errors"][0]["pointer"].as_str().unwrap();
            assert!(pointer.starts_with(&field.pointer), "{body}: {report}");
            assert!(
                detail.ends_with('.') && detail.starts_with(char::is_uppercase),
                "{body}: {detail}"
            );
            for word in WORDS {
                assert!(!detail.contains(word), "{body}: {detail}");
            }
        }
    }
    assert!(refused > 200, "{refused}");
}

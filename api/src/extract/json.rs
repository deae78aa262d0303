//! JSON bodies: parsed into Rust types, and errors explained in the words of the contract.
//!
//! A body is first read strictly, by [`strict_json`](super::strict_json). Then every field that is `null` is removed, because a
//! `null` field counts as missing. If Rust's types refuse a value, the error is explained with the schema that `/openapi.json`
//! shows for the same body.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use domain::generation::Violation;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_path_to_error::Segment;
use utoipa::ToSchema;

use super::expected::{child, expected, fields, found, kind, schema_at};
use super::strict_json::{self, escaped};
use crate::error::{Problem, sentence, truncate};

/// Parses a body that is one JSON object.
///
/// # Errors
/// Returns [`Code::MalformedJson`](crate::error::Code::MalformedJson) if the text is not JSON, and
/// [`Code::InvalidRequest`](crate::error::Code::InvalidRequest), with a pointer to the place, if it does not fit `T` or is too
/// large.
pub fn json<T: DeserializeOwned + ToSchema + 'static>(body: &[u8]) -> Result<T, Problem> {
    let schema = schema_of::<T>();
    let mut tree = strict_json::read(body, schema)?;
    if !tree.is_object() {
        let detail = format!("Expected a JSON object, not {}.", found(&tree));
        return Err(Problem::invalid(vec![Violation::new("", detail)]));
    }
    drop_nulls(&mut tree, schema);
    serde_path_to_error::deserialize(tree).map_err(|error| {
        let pointer = pointer(error.path());
        // Deserializing has consumed the tree, and the explanation needs the values that were sent. Errors are rare, so the body is
        // read again. It was read before, so this does not fail.
        match strict_json::read(body, schema) {
            Ok(tree) => {
                let violation = violation(schema, &tree, pointer, &error.inner().to_string());
                Problem::invalid(vec![violation])
            }
            Err(problem) => problem,
        }
    })
}

/// The schema of a body, rendered once for each type.
fn schema_of<T: ToSchema + 'static>() -> &'static Value {
    static SCHEMAS: LazyLock<RwLock<HashMap<TypeId, &'static Value>>> =
        LazyLock::new(RwLock::default);
    let body_type = TypeId::of::<T>();
    let schemas = SCHEMAS.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(&schema) = schemas.get(&body_type) {
        return schema;
    }
    drop(schemas);
    // The leak is bounded, because the contract has only a few bodies.
    let schema: &'static Value = Box::leak(Box::new(json!(T::schema())));
    let mut schemas = SCHEMAS.write().unwrap_or_else(PoisonError::into_inner);
    schemas.entry(body_type).or_insert(schema)
}

/// Explains serde's `error` at the place `pointer`, without serde's words for Rust types. `tree` is the body, `schema` its schema.
fn violation(schema: &Value, tree: &Value, pointer: String, error: &str) -> Violation {
    let here = schema_at(schema, &pointer);
    if let Some(field) = quoted_name(error, "missing field `") {
        let pointer = format!("{pointer}/{}", escaped(field));
        let wanted = expected(schema_at(schema, &pointer));
        return Violation::new(pointer, format!("It is missing: send {wanted}."));
    }
    if let Some(field) = quoted_name(error, "unknown field `") {
        let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
        let fields = fields(schema_at(schema, parent)).join(", ");
        let field = truncate(field);
        let detail = format!("There is no field `{field}` here. There are: {fields}.");
        return Violation::new(pointer, detail);
    }
    let serdes_own = [
        "invalid type",
        "invalid value",
        "invalid length",
        "unknown variant",
    ];
    let is_serdes_own = serdes_own.iter().any(|begin| error.starts_with(begin));
    let detail = if is_serdes_own || here["format"] == "date-time" {
        let wanted = expected(here);
        match tree.pointer(&pointer) {
            // A string was sent and another string is expected, so naming the type would not help.
            Some(Value::String(_)) if kind(here) == Some("string") => {
                format!("Expected {wanted}.")
            }
            Some(value) => format!("Expected {wanted}, not {}.", found(value)),
            None => format!("Expected {wanted}."),
        }
    } else {
        sentence(&error)
    };
    Violation::new(pointer, detail)
}

/// The name in backticks after a known beginning of an error.
fn quoted_name<'a>(error: &'a str, begin: &str) -> Option<&'a str> {
    let rest = error.strip_prefix(begin)?;
    Some(rest.split_once('`').map_or(rest, |(name, _)| name))
}

/// A path of serde as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } | Segment::Enum { variant: key } => format!("/{}", escaped(key)),
            Segment::Unknown => String::new(),
        })
        .collect()
}

/// Removes every field that is `null`. Unknown fields stay, so that they are refused even if they are `null`.
fn drop_nulls(tree: &mut Value, schema: &Value) {
    match tree {
        Value::Object(fields) => fields.retain(|key, value| {
            let schema = child(schema, key);
            drop_nulls(value, schema);
            !value.is_null() || schema.is_null()
        }),
        Value::Array(items) => {
            // All items have one schema, which is found by the index of any of them.
            let schema = child(schema, "0");
            for item in items {
                drop_nulls(item, schema);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[derive(Debug, serde::Deserialize, ToSchema)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[schema(inline)]
        list: Vec<Inner>,
        #[serde(default)]
        words: std::collections::BTreeMap<String, String>,
    }

    #[derive(Debug, serde::Deserialize, ToSchema)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only its type matters")]
        #[schema(minimum = 1, maximum = 9)]
        number: u8,
    }

    /// The problem a body is refused with: its code, the pointer and the detail.
    fn refused(text: &str) -> (Code, Option<String>, String) {
        let problem = json::<Body>(text.as_bytes()).unwrap_err();
        let body = problem.body("", "");
        let pointer = body["errors"][0]["pointer"].as_str().map(str::to_owned);
        (problem.code(), pointer, body["detail"].to_string())
    }

    #[test]
    fn errors_name_the_place_and_what_is_expected() {
        let check = |text: &str, code, pointer: Option<&str>, words: &str| {
            let (was, at, detail) = refused(text);
            assert_eq!((was, at.as_deref()), (code, pointer), "{text}: {detail}");
            assert!(detail.contains(words), "{text}: {detail}");
        };
        let (no_json, invalid) = (Code::MalformedJson, Code::InvalidRequest);
        check("", no_json, None, "is empty");
        check("{", no_json, None, "ends too early");
        check("{\"list\":[]} x", no_json, None, "column 13");
        check("{\"list\":[}", no_json, None, "line 1, column 10");
        check("[]", invalid, Some(""), "not a list");
        check("7", invalid, Some(""), "not the number 7");
        check("null", invalid, Some(""), "not null");
        check(
            "{\"list\":[{\"number\":\"x\"}]}",
            invalid,
            Some("/list/0/number"),
            "Expected a whole number from 1 to 9, not a string.",
        );
        check(
            "{\"list\":[{\"number\":300}]}",
            invalid,
            Some("/list/0/number"),
            "not the number 300.",
        );
        check(
            "{\"list\":[{\"number\":1.5}]}",
            invalid,
            Some("/list/0/number"),
            "not the number 1.5.",
        );
        check(
            "{\"list\":{}}",
            invalid,
            Some("/list"),
            "Expected a list, not an object.",
        );
        check(
            "{\"list\":[4]}",
            invalid,
            Some("/list/0"),
            "Expected an object",
        );
        check(
            "{\"list\":[{}]}",
            invalid,
            Some("/list/0/number"),
            "It is missing: send a whole number from 1 to 9.",
        );
        check(
            "{\"list\":[],\"a/b\":1}",
            invalid,
            Some("/a~1b"),
            "There are: list, words.",
        );
    }

    #[test]
    fn a_repeated_field_is_refused() {
        for (text, pointer) in [
            (r#"{"list":[],"list":[]}"#, "/list"),
            (r#"{"list":null,"list":[]}"#, "/list"),
            (r#"{"list":[{"number":1,"number":2}]}"#, "/list/0/number"),
            (
                r#"{"list":[],"words":{"a":"1","b":"2","a":"3"}}"#,
                "/words/a",
            ),
            (r#"{"list":[],"w\u006frds":{},"words":{}}"#, "/words"),
        ] {
            let (code, at, detail) = refused(text);
            assert_eq!(
                (code, at.as_deref()),
                (Code::InvalidRequest, Some(pointer)),
                "{text}"
            );
            assert!(detail.contains("twice"), "{detail}");
        }
    }

    #[test]
    fn a_body_over_a_limit_is_refused() {
        let check = |text: &str, at: Option<&str>, words: &str| {
            let (code, pointer, detail) = refused(text);
            assert_eq!(
                (code, pointer.as_deref()),
                (Code::InvalidRequest, at),
                "{detail}"
            );
            assert!(detail.contains(words), "{detail}");
            assert!(detail.len() < 1_500, "{}", detail.len());
        };
        let long = "n".repeat(20_000_000);
        let cut = format!("`{}…`", "n".repeat(100));
        check(&format!(r#"{{"{long}":1}}"#), Some(""), &cut);
        check(
            &format!(r#"{{"{}":1}}"#, &long[..200]),
            Some(&format!("/{}", &long[..200])),
            &cut,
        );
        check(
            &format!(r#"{{"list":"{long}"}}"#),
            Some("/list"),
            "Too long: at most 65536 bytes.",
        );
        check(
            &format!(r#"{{"words":{{"a":"{long}"}}}}"#),
            Some("/words/a"),
            "Too long",
        );
        let many = vec!["{}"; 1_100_000].join(",");
        check(
            &format!(r#"{{"list":[{many}]}}"#),
            Some("/list/1998"),
            "at most 2000 values are allowed",
        );
        let deep = "[".repeat(100) + &"]".repeat(100);
        check(
            &format!(r#"{{"list":{deep}}}"#),
            Some(&format!("/list{}", "/0".repeat(15))),
            "Too deep",
        );
    }

    #[test]
    fn null_counts_as_left_out() {
        let read = |text: &str| json::<Body>(text.as_bytes()).unwrap();
        let body = read(r#"{"list":[],"words":null}"#);
        assert!(body.list.is_empty() && body.words.is_empty());
        assert_eq!(
            read(r#"{"list":[],"words":{"a":null,"b":"2"}}"#)
                .words
                .len(),
            1
        );
        assert_eq!(
            refused(r#"{"list":[],"wrods":null}"#).1.as_deref(),
            Some("/wrods")
        );
        assert_eq!(refused(r#"{"list":null}"#).1.as_deref(), Some("/list"));
        assert_eq!(refused(r#"{"list":[null]}"#).1.as_deref(), Some("/list/0"));
    }
}

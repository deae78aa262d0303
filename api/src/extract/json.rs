//! JSON bodies: read strictly, and what does not fit is said in the words of the contract.
//!
//! No object may name a field twice, since programs disagree about which of the two counts. A field that is `null` is a field that
//! is left out, everywhere. What the types of Rust refuse is explained by the schema that `/openapi.json` shows for the same body.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use common::generation::Violation;
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Number, Value, json};
use serde_path_to_error::Segment;
use utoipa::ToSchema;

use super::expected::{self, expected, found, kind};
use crate::error::{Code, Problem, sentence};

/// Parses a body that is one JSON object; what does not fit is named by its place.
pub fn json<T: DeserializeOwned + ToSchema>(body: &[u8]) -> Result<T, Problem> {
    let mut tree = tree(body)?;
    if !tree.is_object() {
        let detail = format!("Expected a JSON object, not {}.", found(&tree));
        return Err(Problem::invalid(vec![Violation::new("", detail)]));
    }
    let schema = json!(T::schema());
    drop_nulls(&mut tree, &schema);
    serde_path_to_error::deserialize(tree).map_err(|error| {
        let pointer = pointer(error.path());
        // The first tree was used up.
        match self::tree(body) {
            Ok(tree) => {
                let violation = violation(&schema, &tree, pointer, &error.inner().to_string());
                Problem::invalid(vec![violation])
            }
            Err(problem) => problem,
        }
    })
}

/// What is wrong at a place, by what Rust says of it.
fn violation(schema: &Value, tree: &Value, pointer: String, error: &str) -> Violation {
    let here = expected::at(schema, &pointer);
    let says = |word: &str| error.starts_with(word);
    if let Some(field) = named(error, "missing field `") {
        let pointer = format!("{pointer}/{}", escaped(field));
        let wanted = expected(&expected::at(schema, &pointer));
        return Violation::new(pointer, format!("It is missing: send {wanted}."));
    }
    if let Some(field) = named(error, "unknown field `") {
        let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
        let fields = expected::fields(&expected::at(schema, parent)).join(", ");
        let detail = format!("There is no field `{field}` here. There are: {fields}.");
        return Violation::new(pointer, detail);
    }
    let of_serde = [
        "invalid type",
        "invalid value",
        "invalid length",
        "unknown variant",
    ];
    let detail = if of_serde.into_iter().any(says) || here["format"] == "date-time" {
        let wanted = expected(&here);
        match tree.pointer(&pointer) {
            // Another string is wanted: what kind of value it is says nothing.
            Some(Value::String(_)) if kind(&here) == Some("string") => {
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

/// What stands in the backticks after the beginning of an error.
fn named<'a>(error: &'a str, begin: &str) -> Option<&'a str> {
    let rest = error.strip_prefix(begin)?;
    Some(rest.split_once('`').map_or(rest, |(name, _)| name))
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } | Segment::Enum { variant: key } => format!("/{}", escaped(key)),
            Segment::Unknown => String::new(),
        })
        .collect()
}

/// A key as a part of a JSON pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Takes away every field that is `null`. One that nobody knows stays, and is refused as any such field is.
fn drop_nulls(tree: &mut Value, schema: &Value) {
    match tree {
        Value::Object(fields) => fields.retain(|key, value| {
            let schema = expected::at(schema, &format!("/{}", escaped(key)));
            drop_nulls(value, &schema);
            !value.is_null() || schema.is_null()
        }),
        Value::Array(items) => {
            let schema = expected::at(schema, "/0");
            for item in items {
                drop_nulls(item, &schema);
            }
        }
        _ => {}
    }
}

/// Everything in a body.
fn tree(body: &[u8]) -> Result<Value, Problem> {
    let twice = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let read = Strict {
        place: Place::Root,
        twice: &twice,
    };
    read.deserialize(&mut deserializer)
        .and_then(|tree| deserializer.end().map(|()| tree))
        .map_err(|error| match twice.take() {
            Some(pointer) => {
                let detail = "This field is there twice: send it once.";
                Problem::invalid(vec![Violation::new(pointer, detail)])
            }
            None => Problem::new(Code::MalformedJson, broken(body, &error)),
        })
}

/// Where a body stops being JSON.
fn broken(body: &[u8], error: &serde_json::Error) -> String {
    if body.trim_ascii().is_empty() {
        return "The body is empty: send a JSON object.".to_owned();
    }
    let (line, column) = (error.line(), error.column());
    if error.classify() == Category::Eof {
        return format!("The body ends too early, at line {line}, column {column}.");
    }
    let text = error.to_string();
    let why = text.split(" at line ").next().unwrap_or_default();
    format!("The body is not JSON from line {line}, column {column} on: {why}.")
}

/// Where the reader is.
#[derive(Clone, Copy)]
enum Place<'a> {
    Root,
    Field(&'a Self, &'a str),
    Item(&'a Self, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(object, key) => write!(f, "{object}/{}", escaped(key)),
            Self::Item(list, index) => write!(f, "{list}/{index}"),
        }
    }
}

/// Reads a value, and stops at a field that its object has already.
#[derive(Clone, Copy)]
struct Strict<'a> {
    place: Place<'a>,
    /// The pointer of that field.
    twice: &'a RefCell<Option<String>>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, value: D) -> Result<Value, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // 2.0 is a whole number, as JSON Schema has it; beyond this not every whole number can be told from the next.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it is whole and small enough"
        )]
        if value.fract() == 0.0 && value.abs() <= EXACT {
            return Ok((value as i64).into());
        }
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let place = Place::Item(&self.place, items.len());
            match list.next_element_seed(Strict { place, ..self })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = object.next_key::<Cow<'de, str>>()? {
            let place = Place::Field(&self.place, &key);
            if fields.contains_key(&*key) {
                self.twice.replace(Some(place.to_string()));
                return Err(A::Error::custom("a field is there twice"));
            }
            let value = object.next_value_seed(Strict { place, ..self })?;
            fields.insert(key.into_owned(), value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// The problem of a body: its code, its place and its detail.
    fn refused(text: &str) -> (Code, Option<String>, String) {
        let problem = json::<Body>(text.as_bytes()).unwrap_err();
        let body = problem.body("", "");
        let pointer = body["errors"][0]["pointer"].as_str().map(str::to_owned);
        (problem.code(), pointer, body["detail"].to_string())
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_place_and_in_words() {
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
    fn a_field_stands_there_once() {
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
    fn null_is_absent() {
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

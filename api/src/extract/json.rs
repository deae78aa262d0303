//! JSON bodies: read strictly, and what does not fit is said in the words of the contract.
//!
//! No object may name a field twice, since programs disagree about which of the two counts. A field that is `null` is a field that
//! is left out, everywhere. What the types of Rust refuse is explained by the schema that `/openapi.json` shows for the same body.
//!
//! A body is counted while it is read: values, nesting, the length of names and texts, and what the schema says of lists and objects.
//! Reading stops at the first that is too much, so a refused body takes no more than a small multiple of its own size in memory.

use std::any::TypeId;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::sync::{LazyLock, PoisonError, RwLock};

use common::generation::Violation;
use serde::de::{DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Number, Value, json};
use serde_path_to_error::Segment;
use utoipa::ToSchema;

use super::expected::{self, expected, found, inside, kind, plain};
use crate::error::{Code, Problem, sentence, truncate};

/// Most values in a body: every field and item, and every object and list. The largest body that can be carried out, a thousand ids of
/// operators, has fewer.
const MAX_VALUES: usize = 2_000;
/// How deep objects and lists may lie in one another. No body needs more than four.
const MAX_NESTING: usize = 16;
/// Longest name of a field, in bytes: a key of `metadata` has at most 64 characters of four.
const MAX_KEY: usize = 256;
/// Longest text, in bytes, but for files in base64. No field takes more than 8,000 characters.
const MAX_TEXT: usize = 64 * 1024;

/// Parses a body that is one JSON object; what does not fit is named by its place.
pub fn json<T: DeserializeOwned + ToSchema + 'static>(body: &[u8]) -> Result<T, Problem> {
    let schema = schema_of::<T>();
    let mut tree = tree(body, schema)?;
    if !tree.is_object() {
        let detail = format!("Expected a JSON object, not {}.", found(&tree));
        return Err(Problem::invalid(vec![Violation::new("", detail)]));
    }
    drop_nulls(&mut tree, schema);
    serde_path_to_error::deserialize(tree).map_err(|error| {
        let pointer = pointer(error.path());
        // The first tree was used up.
        match self::tree(body, schema) {
            Ok(tree) => {
                let violation = violation(schema, &tree, pointer, &error.inner().to_string());
                Problem::invalid(vec![violation])
            }
            Err(problem) => problem,
        }
    })
}

/// The schema of a body, made once for each type.
fn schema_of<T: ToSchema + 'static>() -> &'static Value {
    static MADE: LazyLock<RwLock<HashMap<TypeId, &'static Value>>> = LazyLock::new(RwLock::default);
    let body = TypeId::of::<T>();
    let made = MADE.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(&schema) = made.get(&body) {
        return schema;
    }
    drop(made);
    // There are as many as there are bodies in the contract.
    let schema: &'static Value = Box::leak(Box::new(json!(T::schema())));
    let mut made = MADE.write().unwrap_or_else(PoisonError::into_inner);
    made.entry(body).or_insert(schema)
}

/// What is wrong at a place, by what Rust says of it.
fn violation(schema: &Value, tree: &Value, pointer: String, error: &str) -> Violation {
    let here = expected::at(schema, &pointer);
    let says = |word: &str| error.starts_with(word);
    if let Some(field) = named(error, "missing field `") {
        let pointer = format!("{pointer}/{}", escaped(field));
        let wanted = expected(expected::at(schema, &pointer));
        return Violation::new(pointer, format!("It is missing: send {wanted}."));
    }
    if let Some(field) = named(error, "unknown field `") {
        let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
        let fields = expected::fields(expected::at(schema, parent)).join(", ");
        let field = truncate(field);
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
        let wanted = expected(here);
        match tree.pointer(&pointer) {
            // Another string is wanted: what kind of value it is says nothing.
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
            let schema = inside(schema, key);
            drop_nulls(value, schema);
            !value.is_null() || schema.is_null()
        }),
        Value::Array(items) => {
            let schema = inside(schema, "0");
            for item in items {
                drop_nulls(item, schema);
            }
        }
        _ => {}
    }
}

/// Everything in a body, or the first that is too much.
fn tree(body: &[u8], schema: &Value) -> Result<Value, Problem> {
    let (refused, values) = (RefCell::default(), Cell::default());
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let read = StrictValue {
        place: Location::Root,
        schema: plain(schema),
        depth: 0,
        values: &values,
        refused: &refused,
    };
    read.deserialize(&mut deserializer)
        .and_then(|tree| deserializer.end().map(|()| tree))
        .map_err(|error| match refused.take() {
            Some(violation) => Problem::invalid(vec![violation]),
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
enum Location<'a> {
    Root,
    Field(&'a Self, &'a str),
    Item(&'a Self, usize),
}

impl fmt::Display for Location<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(object, key) => write!(f, "{object}/{}", escaped(key)),
            Self::Item(list, index) => write!(f, "{list}/{index}"),
        }
    }
}

/// Reads a value, and stops at what is too much and at a field that its object has already.
#[derive(Clone, Copy)]
struct StrictValue<'a> {
    place: Location<'a>,
    /// What the contract says of this place; `null` where it knows none.
    schema: &'a Value,
    /// How many objects and lists it lies in.
    depth: usize,
    /// Values that were read.
    values: &'a Cell<usize>,
    /// Why reading stopped, where that is for us to say.
    refused: &'a RefCell<Option<Violation>>,
}

impl StrictValue<'_> {
    fn refuse<E: serde::de::Error>(&self, detail: impl Into<String>) -> E {
        let violation = Violation::new(self.place.to_string(), detail);
        self.refused.replace(Some(violation));
        E::custom("it is refused")
    }

    /// One value more, which an object or a list may be.
    fn count<E: serde::de::Error>(&self) -> Result<(), E> {
        self.values.set(self.values.get() + 1);
        if self.values.get() > MAX_VALUES {
            return Err(self.refuse(format!(
                "The body goes on too long: at most {MAX_VALUES} values are read."
            )));
        }
        Ok(())
    }

    /// Before an object or a list is read.
    fn enter<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.depth >= MAX_NESTING {
            let detail =
                format!("Too deep: at most {MAX_NESTING} objects and lists in one another.");
            return Err(self.refuse(detail));
        }
        Ok(())
    }

    /// Whether one more fits, of what the schema allows.
    fn fits<E: serde::de::Error>(&self, has: usize, limit: &str, noun: &str) -> Result<(), E> {
        match self.schema[limit].as_u64() {
            Some(most) if has as u64 >= most => Err(self.refuse(format!("At most {most} {noun}."))),
            _ => Ok(()),
        }
    }

    /// Whether a text may be that long.
    fn text<E: serde::de::Error>(&self, text: &str) -> Result<(), E> {
        if text.len() > MAX_TEXT && self.schema["contentEncoding"] != "base64" {
            let detail = match self.schema["maxLength"].as_u64() {
                Some(most) => format!("At most {most} characters."),
                None => format!("Too long: at most {MAX_TEXT} bytes."),
            };
            return Err(self.refuse(detail));
        }
        Ok(())
    }
}

/// Reads the name of a field, and looks at its length before it is copied.
struct Name<'a>(&'a StrictValue<'a>);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = String;

    fn deserialize<D: serde::Deserializer<'de>>(self, key: D) -> Result<String, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        if key.len() > MAX_KEY {
            return Err(self.0.refuse(format!(
                "The field `{}` has too long a name: at most {MAX_KEY} bytes.",
                truncate(key)
            )));
        }
        Ok(key.to_owned())
    }
}

impl<'de> DeserializeSeed<'de> for StrictValue<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, value: D) -> Result<Value, D::Error> {
        self.count()?;
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictValue<'_> {
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

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.text(value)?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.enter()?;
        let (mut items, schema) = (Vec::new(), inside(self.schema, "0"));
        loop {
            let item = StrictValue {
                place: Location::Item(&self.place, items.len()),
                schema,
                depth: self.depth + 1,
                ..self
            };
            let most = BoundedValue(&self, items.len(), item);
            match list.next_element_seed(most)? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        self.enter()?;
        let mut fields = Map::new();
        while let Some(key) = object.next_key_seed(Name(&self))? {
            self.fits(fields.len(), "maxProperties", "entries")?;
            let field = StrictValue {
                place: Location::Field(&self.place, &key),
                schema: inside(self.schema, &key),
                depth: self.depth + 1,
                ..self
            };
            if fields.contains_key(&key) {
                return Err(field.refuse("This field is there twice: send it once."));
            }
            let value = object.next_value_seed(field)?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

/// One more item of a list, where one more may be in it.
struct BoundedValue<'a>(&'a StrictValue<'a>, usize, StrictValue<'a>);

impl<'de> DeserializeSeed<'de> for BoundedValue<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, value: D) -> Result<Value, D::Error> {
        self.0.fits(self.1, "maxItems", "items")?;
        self.2.deserialize(value)
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
    fn a_body_is_counted_while_it_is_read() {
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
            "at most 2000 values",
        );
        let deep = "[".repeat(100) + &"]".repeat(100);
        check(
            &format!(r#"{{"list":{deep}}}"#),
            Some(&format!("/list{}", "/0".repeat(15))),
            "Too deep",
        );
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

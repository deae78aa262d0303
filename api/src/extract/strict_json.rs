//! Reads JSON strictly: no object may name a field twice, and everything is counted while it is read.
//!
//! The number of values, the nesting, and the lengths of names and texts have limits. Lists and objects have the limits of the
//! schema. Reading stops at the first value over a limit, so a refused body takes at most a small multiple of its own size in
//! memory.

use std::cell::{Cell, RefCell};
use std::fmt;

use domain::generation::Violation;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Number, Value};

use super::expected::{child, without_null};
use crate::error::{Code, Problem, truncate};

/// The most values in a body: every field, item, object and list counts. The largest valid body, an operator's list of a thousand
/// job ids, has fewer.
const MAX_VALUES: usize = 2_000;
/// How deep objects and lists may be nested. Valid bodies need at most four levels.
const MAX_NESTING: usize = 16;
/// The longest name of a field, in bytes. The longest valid name is a key of `metadata`, which has at most 64 characters of four
/// bytes.
const MAX_KEY_BYTES: usize = 256;
/// The longest text, in bytes, except files in base64. No field allows more than 8,000 characters.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Reads a whole body.
///
/// # Errors
/// Returns [`Code::InvalidRequest`] for the first value over a limit or the first repeated field, and [`Code::MalformedJson`] if
/// the body is not JSON.
pub(super) fn read(body: &[u8], schema: &Value) -> Result<Value, Problem> {
    let (refused, values) = (RefCell::default(), Cell::default());
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let root = StrictValue {
        location: Location::Root,
        schema: without_null(schema),
        depth: 0,
        values: &values,
        refused: &refused,
    };
    root.deserialize(&mut deserializer)
        .and_then(|tree| deserializer.end().map(|()| tree))
        .map_err(|error| match refused.take() {
            Some(violation) => Problem::invalid(vec![violation]),
            None => Problem::new(Code::MalformedJson, syntax_error(body, &error)),
        })
}

/// A key as a part of a JSON pointer (RFC 6901).
pub(super) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Says where and why a body is not JSON.
fn syntax_error(body: &[u8], error: &serde_json::Error) -> String {
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

/// The place of a value in the body. It is written as a JSON pointer, which is built only if an error needs it.
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

/// Reads one value. Stops at a limit, and at a field that its object already has.
#[derive(Clone, Copy)]
struct StrictValue<'a> {
    location: Location<'a>,
    /// The schema of this place; `null` if the contract does not know it.
    schema: &'a Value,
    /// How many objects and lists contain the value.
    depth: usize,
    /// How many values were read so far, in the whole body.
    values: &'a Cell<usize>,
    /// Why reading stopped, if it was not a syntax error.
    refused: &'a RefCell<Option<Violation>>,
}

impl StrictValue<'_> {
    /// Stops reading. Serde can carry only a text, so the violation itself is left in `refused`.
    fn refuse<E: serde::de::Error>(&self, detail: impl Into<String>) -> E {
        let violation = Violation::new(self.location.to_string(), detail);
        self.refused.replace(Some(violation));
        E::custom("the body is refused")
    }

    /// Counts one more value.
    fn count<E: serde::de::Error>(&self) -> Result<(), E> {
        self.values.set(self.values.get() + 1);
        if self.values.get() > MAX_VALUES {
            return Err(self.refuse(format!(
                "The body holds too many values: at most {MAX_VALUES} values are allowed."
            )));
        }
        Ok(())
    }

    /// Checks the nesting, before an object or a list is read.
    fn check_nesting<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.depth >= MAX_NESTING {
            let detail =
                format!("Too deep: at most {MAX_NESTING} levels of objects and lists are allowed.");
            return Err(self.refuse(detail));
        }
        Ok(())
    }

    /// Checks that the schema allows one more entry or item besides the `count` that were read. `keyword` is the keyword of the
    /// schema that limits their number.
    fn check_room<E: serde::de::Error>(
        &self,
        count: usize,
        keyword: &str,
        noun: &str,
    ) -> Result<(), E> {
        match self.schema[keyword].as_u64() {
            Some(max) if count as u64 >= max => Err(self.refuse(format!("At most {max} {noun}."))),
            _ => Ok(()),
        }
    }

    /// Checks a text against [`MAX_TEXT_BYTES`], unless it is a file in base64. The limit of its own field is checked after
    /// parsing. It is lower, so the error may name it.
    fn check_text<E: serde::de::Error>(&self, text: &str) -> Result<(), E> {
        if text.len() > MAX_TEXT_BYTES && self.schema["contentEncoding"] != "base64" {
            let detail = match self.schema["maxLength"].as_u64() {
                Some(max) => format!("At most {max} characters."),
                None => format!("Too long: at most {MAX_TEXT_BYTES} bytes."),
            };
            return Err(self.refuse(detail));
        }
        Ok(())
    }
}

/// Reads the name of a field of an object. Its length is checked before it is copied.
struct FieldName<'a>(&'a StrictValue<'a>);

impl<'de> DeserializeSeed<'de> for FieldName<'_> {
    type Value = String;

    fn deserialize<D: serde::Deserializer<'de>>(self, key: D) -> Result<String, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        if key.len() > MAX_KEY_BYTES {
            return Err(self.0.refuse(format!(
                "The name of the field `{}` is too long: at most {MAX_KEY_BYTES} bytes.",
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
        // JSON Schema counts 2.0 as a whole number. Above 2^53, floats can no longer represent every whole number.
        const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the value is whole and small enough"
        )]
        if value.fract() == 0.0 && value.abs() <= MAX_EXACT {
            return Ok((value as i64).into());
        }
        // JSON has neither infinity nor NaN, so this is never `null`.
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.check_text(value)?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.check_nesting()?;
        // All items have one schema, which is found by the index of any of them.
        let (mut items, schema) = (Vec::new(), child(self.schema, "0"));
        loop {
            let item = NextItem {
                list: &self,
                index: items.len(),
                value: StrictValue {
                    location: Location::Item(&self.location, items.len()),
                    schema,
                    depth: self.depth + 1,
                    ..self
                },
            };
            match list.next_element_seed(item)? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        self.check_nesting()?;
        let mut fields = Map::new();
        while let Some(key) = object.next_key_seed(FieldName(&self))? {
            self.check_room(fields.len(), "maxProperties", "entries")?;
            let field = StrictValue {
                location: Location::Field(&self.location, &key),
                schema: child(self.schema, &key),
                depth: self.depth + 1,
                ..self
            };
            if fields.contains_key(&key) {
                return Err(field.refuse("This field was sent twice: send it once."));
            }
            let value = object.next_value_seed(field)?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

/// Reads the next item of a list. Only if there is one, checks whether the list may have one more item.
struct NextItem<'a> {
    list: &'a StrictValue<'a>,
    index: usize,
    value: StrictValue<'a>,
}

impl<'de> DeserializeSeed<'de> for NextItem<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, value: D) -> Result<Value, D::Error> {
        self.list.check_room(self.index, "maxItems", "items")?;
        self.value.deserialize(value)
    }
}

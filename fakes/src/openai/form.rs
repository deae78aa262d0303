//! The fields of a request, read from JSON or from a multipart form.

use super::{
    super::{blob, journal::Entry},
    error::ApiError,
};
use axum::http::{HeaderMap, header::CONTENT_TYPE};
use bytes::Bytes;
use futures::stream;
use multer::Multipart;
use serde_json::{Map, Value, json};
use std::convert::Infallible;

/// The fields of a request.
#[derive(Clone)]
pub(super) struct Fields {
    values: Map<String, Value>,
    /// Whether the fields come from a form, in which numbers and booleans are text.
    is_form: bool,
    /// The files of a form. JSON has none.
    pub(super) files: Vec<File>,
}

/// A file of a form.
#[derive(Clone)]
pub(super) struct File {
    /// The name of its field, without the brackets of a list.
    pub(super) field: String,
    pub(super) content_type: Option<String>,
    pub(super) bytes: Bytes,
}

impl Fields {
    /// Reads the fields of a JSON body.
    pub(super) fn from_json(raw: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(raw) {
            Ok(Value::Object(values)) => Ok(Self {
                values,
                is_form: false,
                files: Vec::new(),
            }),
            _ => Err(ApiError::invalid(
                None,
                "invalid_json",
                "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
            )),
        }
    }

    /// Reads the fields and the files of a multipart form.
    pub(super) async fn from_form(headers: &HeaderMap, raw: Bytes) -> Result<Self, ApiError> {
        let unreadable = |error: &dyn ToString| {
            let sentence = format!("Could not parse multipart form: {}", error.to_string());
            ApiError::invalid(None, "invalid_multipart", sentence)
        };
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let boundary = multer::parse_boundary(content_type.unwrap_or_default())
            .map_err(|error| unreadable(&error))?;
        let body = stream::iter([Ok::<_, Infallible>(raw)]);
        let mut parts = Multipart::new(body, boundary);
        let mut fields = Self {
            values: Map::new(),
            is_form: true,
            files: Vec::new(),
        };
        while let Some(part) = parts
            .next_field()
            .await
            .map_err(|error| unreadable(&error))?
        {
            let name = part.name().unwrap_or_default().to_owned();
            let content_type = part.content_type().map(ToString::to_string);
            if part.file_name().is_some() {
                fields.files.push(File {
                    field: name.trim_end_matches("[]").to_owned(),
                    content_type,
                    bytes: part.bytes().await.map_err(|error| unreadable(&error))?,
                });
            } else {
                let text = part.text().await.map_err(|error| unreadable(&error))?;
                fields.values.insert(name, text.into());
            }
        }
        Ok(fields)
    }

    /// The parts of the request that the journal keeps.
    pub(super) fn entry(&self) -> Entry {
        let mut body = self.values.clone();
        for file in &self.files {
            let mut summary = blob::file_summary(&file.bytes);
            summary["content_type"] = json!(file.content_type);
            match body.get_mut(&file.field) {
                Some(Value::Array(files)) => files.push(summary),
                _ => {
                    body.insert(file.field.clone(), json!([summary]));
                }
            }
        }
        Entry {
            model: self.optional_text("model").unwrap_or_default().to_owned(),
            body: body.into(),
            ..Entry::default()
        }
    }

    /// The names of all fields, files included.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let files = self.files.iter().map(|file| file.field.as_str());
        self.values.keys().map(String::as_str).chain(files)
    }

    /// All fields except the files.
    pub(super) fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// The text of a field. Returns `None` if the field is missing or is not text.
    pub(super) fn optional_text(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.as_str()
    }

    /// The text of a field. Returns `None` if the field is missing, and an error if it is not text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(name, "a string", other)),
        }
    }

    /// The whole number of a field. Returns `None` if the field is missing.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.values.get(name).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let number = match value {
            Value::String(word) if self.is_form => word.parse().ok(),
            value => value.as_i64(),
        };
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(wrong_type(name, "an integer", value)),
        }
    }

    /// The boolean of a field. Returns `false` if the field is missing.
    pub(super) fn bool(&self, name: &str) -> Result<bool, ApiError> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(Value::String(word)) if self.is_form && word == "true" => Ok(true),
            Some(Value::String(word)) if self.is_form && word == "false" => Ok(false),
            Some(other) => Err(wrong_type(name, "a boolean", other)),
        }
    }
}

fn wrong_type(name: &str, wanted: &str, got: &Value) -> ApiError {
    let got = match got {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    let sentence = format!("Invalid type for '{name}': expected {wanted}, but got {got} instead.");
    ApiError::invalid(Some(name), "invalid_type", sentence)
}

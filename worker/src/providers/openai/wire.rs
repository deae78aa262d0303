//! The JSON and the multipart forms of OpenAI images, as far as Platen uses them.
//!
//! Source: the types of openai 3.54.0 (`types/image_generate_params.py`, `image_edit_params.py`,
//! `images_response.py`).

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use domain::generation::image::MediaType;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::providers::http::Base64;

/// One part of a multipart form.
pub(in crate::providers) enum Part {
    Text {
        name: String,
        text: String,
    },
    File {
        name: &'static str,
        file_name: String,
        media_type: MediaType,
        bytes: Bytes,
    },
}

/// One value or a list of values in JSON; `null` is an empty list.
pub(super) struct ZeroOrMore<T>(pub Vec<T>);

impl<T> Default for ZeroOrMore<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ZeroOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ZeroOrMoreVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ZeroOrMoreVisitor<T> {
            type Value = ZeroOrMore<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, or a list of objects")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let one = T::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ZeroOrMore(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut many = Vec::new();
                while let Some(one) = list.next_element::<Option<T>>()? {
                    many.extend(one);
                }
                Ok(ZeroOrMore(many))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(ZeroOrMore::default())
            }
        }

        deserializer.deserialize_any(ZeroOrMoreVisitor(PhantomData))
    }
}

/// A successful answer. Every field may be missing, and unknown fields are ignored.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Images {
    pub data: ZeroOrMore<Image>,
    pub usage: Option<Value>,
    /// The file of the image, if a server sends the image's fields without `data` around them.
    b64_json: Option<Base64>,
    /// The URL of the image, likewise.
    url: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Image {
    pub b64_json: Option<Base64>,
    pub url: Option<String>,
}

impl Images {
    /// All images, those in `data` first.
    pub(super) fn into_images(self) -> impl Iterator<Item = Image> {
        let without_data = Image {
            b64_json: self.b64_json,
            url: self.url,
        };
        self.data.0.into_iter().chain([without_data])
    }
}

/// The tokens that are billed besides the image.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    pub input_tokens: i64,
}

/// An error, as far as an answer describes it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Error {
    /// OpenAI's `code`, then its `type`. Other servers put an HTTP status or the name of an
    /// exception there.
    pub codes: Vec<String>,
    pub message: String,
}

impl Error {
    /// Reads the formats that servers use:
    ///
    /// - OpenAI's `error` with `message`, `type` and `code`, or these fields without `error` around
    ///   them
    /// - a plain string
    /// - the `detail` of `FastAPI`, which is a string or a list
    ///
    /// Each of these may be in a list. Returns `None` if the body describes no error.
    pub(super) fn parse(body: &Value) -> Option<Self> {
        let fields = match body {
            Value::Array(list) => return list.iter().find_map(Self::parse),
            Value::Object(fields) => fields,
            other => return Self::parse_unwrapped(other),
        };
        let wrappers = ["error", "errors", "detail"].into_iter();
        let mut wrapped = wrappers.filter_map(|name| fields.get(name));
        let inner = wrapped.find_map(Self::parse_unwrapped);
        // `type` alone does not make a body an error, because a successful answer may have a
        // `type`, too.
        let is_error_object = || fields.get("object").is_some_and(|object| object == "error");
        let is_error = inner.is_some() || fields.contains_key("message") || is_error_object();
        let outer = Self::parse_unwrapped(body).filter(|_| is_error);
        match (inner, outer) {
            (Some(mut inner), Some(outer)) => {
                inner.codes.extend(outer.codes);
                Some(inner)
            }
            (inner, outer) => inner.or(outer),
        }
    }

    /// Reads an error without a wrapper such as `error` around it: its fields, a plain string, or
    /// the first error of a list.
    fn parse_unwrapped(error: &Value) -> Option<Self> {
        let fields = match error {
            Value::Array(list) => return list.iter().find_map(Self::parse_unwrapped),
            Value::Object(fields) => fields,
            other => {
                let message = other
                    .as_str()
                    .filter(|message| !message.trim().is_empty())?;
                return Some(Self {
                    codes: Vec::new(),
                    message: message.to_owned(),
                });
            }
        };
        let codes = ["code", "type"]
            .into_iter()
            .filter_map(|name| match fields.get(name)? {
                Value::String(code) => Some(code.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            });
        let mut messages = ["message", "msg"]
            .into_iter()
            .filter_map(|name| fields.get(name)?.as_str());
        let error = Self {
            codes: codes.filter(|code| !code.is_empty()).collect(),
            message: messages.next().unwrap_or_default().to_owned(),
        };
        (error != Self::default()).then_some(error)
    }

    /// The HTTP status that usually comes with these codes. It classifies an error that came with
    /// HTTP 200.
    pub(super) fn usual_status(&self) -> Option<u16> {
        self.codes.iter().find_map(|code| {
            let status = match code.as_str() {
                "invalid_request_error" | "image_generation_user_error" | "BadRequestError" => 400,
                "authentication_error" | "invalid_api_key" | "AuthenticationError" => 401,
                "permission_error" | "PermissionDeniedError" => 403,
                "not_found_error" | "model_not_found" | "NotFoundError" => 404,
                "rate_limit_error"
                | "rate_limit_exceeded"
                | "requests"
                | "tokens"
                | "RateLimitError" => 429,
                "server_error"
                | "api_error"
                | "internal_error"
                | "internal_server_error"
                | "InternalServerError" => 500,
                "service_unavailable"
                | "service_unavailable_error"
                | "overloaded_error"
                | "ServiceUnavailableError" => 503,
                // Some servers put the HTTP status there.
                number => {
                    return number
                        .parse()
                        .ok()
                        .filter(|status| (400..600).contains(status));
                }
            };
            Some(status)
        })
    }
}

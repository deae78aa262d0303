//! The JSON and the forms of OpenAI images, as far as Platen speaks them.
//!
//! Source: the types of openai 3.54.0 (`types/image_generate_params.py`, `image_edit_params.py`, `images_response.py`).

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use common::generation::image::MediaType;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::providers::http::Base64;

/// One part of a form.
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

/// One, or several in a list; nothing where there is `null`.
pub(super) struct OneOrMany<T>(pub Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Shape<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, or a list of objects")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let one = T::deserialize(MapAccessDeserializer::new(map))?;
                Ok(OneOrMany(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut many = Vec::new();
                while let Some(one) = list.next_element::<Option<T>>()? {
                    many.extend(one);
                }
                Ok(OneOrMany(many))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(OneOrMany::default())
            }
        }

        deserializer.deserialize_any(Shape(PhantomData))
    }
}

/// A successful answer. Everything may be missing, and anything may be there that is not named.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Images {
    pub data: OneOrMany<Image>,
    pub usage: Option<Value>,
    /// Where the answer itself is the picture, without `data` around it.
    b64_json: Option<Base64>,
    url: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Image {
    pub b64_json: Option<Base64>,
    pub url: Option<String>,
}

impl Images {
    pub(super) fn into_pictures(self) -> impl Iterator<Item = Image> {
        let bare = Image {
            b64_json: self.b64_json,
            url: self.url,
        };
        self.data.0.into_iter().chain([bare])
    }
}

/// What is billed besides the picture.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    pub input_tokens: i64,
}

/// What went wrong, as far as an answer says it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Error {
    /// OpenAI's `code`, and then its `type`. Other servers put a status or the name of an exception there.
    pub words: Vec<String>,
    pub message: String,
}

impl Error {
    /// Reads the shapes that servers have: OpenAI's `error` with its `message`, `type` and `code`; the same without the wrapping;
    /// only a sentence; `FastAPI`'s `detail`, a sentence or a list. Any of them may stand in a list. `None`: it tells of no error.
    pub(super) fn of(body: &Value) -> Option<Self> {
        let fields = match body {
            Value::Array(list) => return list.iter().find_map(Self::of),
            Value::Object(fields) => fields,
            other => return Self::described(other),
        };
        let inner = ["error", "errors", "detail"].into_iter();
        let mut named = inner.filter_map(|name| fields.get(name));
        let inner = named.find_map(Self::described);
        // An answer may have a `type` of its own.
        let names_it = || fields.get("object").is_some_and(|object| object == "error");
        let is_one = inner.is_some() || fields.contains_key("message") || names_it();
        let outer = Self::described(body).filter(|_| is_one);
        match (inner, outer) {
            (Some(mut inner), Some(outer)) => {
                inner.words.extend(outer.words);
                Some(inner)
            }
            (inner, outer) => inner.or(outer),
        }
    }

    fn described(error: &Value) -> Option<Self> {
        let fields = match error {
            Value::Array(list) => return list.iter().find_map(Self::described),
            Value::Object(fields) => fields,
            other => {
                let message = other
                    .as_str()
                    .filter(|message| !message.trim().is_empty())?;
                return Some(Self {
                    words: Vec::new(),
                    message: message.to_owned(),
                });
            }
        };
        let words = ["code", "type"]
            .into_iter()
            .filter_map(|name| match fields.get(name)? {
                Value::String(word) => Some(word.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            });
        let mut messages = ["message", "msg"]
            .into_iter()
            .filter_map(|name| fields.get(name)?.as_str());
        let error = Self {
            words: words.filter(|word| !word.is_empty()).collect(),
            message: messages.next().unwrap_or_default().to_owned(),
        };
        (error != Self::default()).then_some(error)
    }

    /// The HTTP status that an error in these words usually comes with.
    pub(super) fn usual_status(&self) -> Option<u16> {
        self.words.iter().find_map(|word| {
            let status = match word.as_str() {
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

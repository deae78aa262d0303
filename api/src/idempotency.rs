//! `Idempotency-Key`: a repeated POST gets the first answer again and has no second effect.
//!
//! [`storage::idempotency`] stores the key and the answer in the transaction that has the effect. This module reads the header and
//! writes the answer.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::id::RequestId;
use domain::idempotency::{self, Answer};

use crate::error::{Code, Problem};
use crate::extract::single;
use crate::header_list::unquoted;

/// The header with the key, in requests and in answers.
pub const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header that marks an answer that was given before.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The pattern of a key, with or without quotes, for `/openapi.json`.
pub const PATTERN: &str = "^([!#-~][!-~]{0,254}|\"[!#-\\[\\]-~]{1,255}\")$";
/// The description of the header, for `/openapi.json`.
pub const DESCRIPTION: &str = "1 to 255 visible ASCII characters; a key is generated if it is missing. If the same request is repeated with the same key, the first answer is returned again and nothing is done twice.";

/// The idempotency key of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The key, without quotes.
    value: String,
    /// Whether the client sent the key. Only then can an earlier answer exist.
    pub sent: bool,
}

impl IdempotencyKey {
    /// Reads the key in the header, or makes a new one if there is no header.
    fn parse(header: Option<&HeaderValue>) -> Result<Self, Problem> {
        let Some(header) = header else {
            return Ok(Self {
                value: RequestId::new().0.to_string(),
                sent: false,
            });
        };
        // In the IETF draft (draft-ietf-httpapi-idempotency-key-header) the key is a structured string in quotes, so quotes are
        // accepted.
        let key = header.to_str().ok().map(|text| match text {
            quoted if quoted.starts_with('"') => match unquoted(quoted) {
                // The closing quote is missing. The empty key is refused below.
                inner if inner == quoted => String::new(),
                inner => inner,
            },
            plain => plain.to_owned(),
        });
        key.filter(|key| (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()))
            .map(|value| Self { value, sent: true })
            .ok_or_else(|| {
                Problem::new(
                    Code::InvalidHeader,
                    "Idempotency-Key takes 1 to 255 visible ASCII characters, such as a UUID; with quotes around all of it, or without.",
                )
            })
    }

    /// Returns what identifies the request: its key, and a hash of everything that must be the same in a repetition.
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> idempotency::Request {
        idempotency::Request {
            key: self.value.clone(),
            hash: idempotency::request_hash(method, path, body),
        }
    }

    /// Makes the response to the first request with this key.
    pub fn answer(&self, answer: Answer) -> Response {
        let Ok(status) = StatusCode::from_u16(answer.status) else {
            tracing::error!(
                status = answer.status,
                "A stored answer has an invalid HTTP status"
            );
            return Problem::from(Code::Internal).into_response();
        };
        let has_body = !answer.body.is_empty();
        let mut response = (status, answer.body).into_response();
        let headers = response.headers_mut();
        if has_body {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
        } else {
            headers.remove(header::CONTENT_TYPE);
        }
        headers.insert(
            KEY,
            HeaderValue::from_str(&self.value).expect("a key is a header"),
        );
        if let Some(location) = answer
            .location
            .and_then(|location| HeaderValue::try_from(location).ok())
        {
            headers.insert(header::LOCATION, location);
        }
        response
    }

    /// Makes the response to a repeated request from its stored answer, and marks it as repeated.
    pub fn replay(&self, answer: Answer) -> Response {
        let mut response = self.answer(answer);
        response
            .headers_mut()
            .insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::parse(single(&parts.headers, &KEY)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_or_generated() {
        let parse = |text: &str| IdempotencyKey::parse(Some(&HeaderValue::from_str(text).unwrap()));
        let kept = parse("a-1").unwrap();
        assert!(kept.sent);
        assert_eq!(kept.value, "a-1");
        assert_eq!(parse("\"a-1\"").unwrap(), kept);
        assert_eq!(parse(r#""a\"\\1""#).unwrap().value, r#"a"\1"#);
        for bad in [
            "",
            "a b",
            "\"",
            "\"\"",
            "\"a",
            "\"a b\"",
            "\"a\";x=1",
            &"a".repeat(256),
        ] {
            assert_eq!(parse(bad).unwrap_err().code(), Code::InvalidHeader);
        }
        let (one, two) = (
            IdempotencyKey::parse(None).unwrap(),
            IdempotencyKey::parse(None).unwrap(),
        );
        assert!(!one.sent);
        assert_ne!(one, two);
    }

    #[test]
    fn a_replay_is_the_first_answer_with_a_mark() {
        let key = IdempotencyKey::parse(None).unwrap();
        let answer = Answer {
            status: 202,
            location: Some("/v1/jobs/job_1".to_owned()),
            body: b"{}".to_vec(),
        };
        let first = key.answer(answer.clone());
        let second = key.replay(answer);
        assert_eq!(second.headers()[REPLAYED], "true");
        assert!(!first.headers().contains_key(REPLAYED));
        for response in [first, second] {
            assert_eq!(response.status(), StatusCode::ACCEPTED);
            assert_eq!(response.headers()[header::LOCATION], "/v1/jobs/job_1");
            assert_eq!(response.headers()[KEY], key.value.as_str());
        }
    }
}

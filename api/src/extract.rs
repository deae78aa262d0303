//! Bodies, queries, ids and hosts, parsed at the edge: what cannot be read is a problem that says why.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use bytes::Bytes;
use common::generation::Violation;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_path_to_error::Segment;

use crate::error::{Code, Problem, sentence};

/// The bytes of a body that is declared as JSON.
#[derive(Debug)]
pub struct JsonBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Code::UnsupportedMediaType.into());
        }
        Ok(Self(body(request, state).await?))
    }
}

/// The bytes of a body that may as well be empty.
#[derive(Debug)]
pub struct AnyBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for AnyBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Ok(Self(body(request, state).await?))
    }
}

async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Problem::from(Code::BodyTooLarge)
            } else {
                Problem::new(Code::MalformedJson, "The body broke off: send it again.")
            }
        })
}

fn is_json(headers: &HeaderMap) -> bool {
    text(headers, &header::CONTENT_TYPE)
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// A header's text, where there is one.
pub fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Parses a body that is one JSON object; what does not fit is named by its place.
pub fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // Serde would take a list of the fields' values as well, which nobody means.
    if body.trim_ascii_start().first() == Some(&b'[') {
        let violation = Violation::new("", "Expected a JSON object, not a list.");
        return Err(Problem::invalid(vec![violation]));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer(error.path());
        (pointer, error.into_inner())
    });
    parsed
        .and_then(|value| match deserializer.end() {
            Ok(()) => Ok(value),
            Err(error) => Err((String::new(), error)),
        })
        .map_err(|(pointer, error)| match error.classify() {
            Category::Data => Problem::invalid(vec![Violation::new(pointer, sentence(&error))]),
            Category::Syntax | Category::Eof | Category::Io => {
                Problem::new(Code::MalformedJson, sentence(&error))
            }
        })
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                format!("/{}", key.replace('~', "~0").replace('/', "~1"))
            }
            Segment::Unknown => String::new(),
        })
        .collect()
}

/// A query string.
#[derive(Debug)]
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(query)| Self(query))
            .map_err(|rejection| {
                let text = rejection.body_text();
                let detail = text
                    .rsplit_once("query string: ")
                    .map_or(&*text, |(_, why)| why);
                Problem::new(Code::InvalidQuery, format!("{detail}."))
            })
    }
}

/// How many lines of a list are wanted.
pub fn limit(asked: Option<i64>) -> Result<i64, Problem> {
    match asked.unwrap_or(20) {
        limit @ 1..=100 => Ok(limit),
        other => Err(Problem::new(
            Code::InvalidQuery,
            format!("limit is 1 to 100, not {other}."),
        )),
    }
}

/// A page, of one line more than was asked for, and whether that line was there.
pub fn page<T>(mut lines: Vec<T>, limit: i64) -> (Vec<T>, bool) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = lines.len() > limit;
    lines.truncate(limit);
    (lines, has_more)
}

/// Postgres keeps no NUL in text, so nothing there can match it.
pub fn searchable(parameter: &str, text: Option<&str>) -> Result<(), Problem> {
    match text {
        Some(text) if text.contains('\0') => Err(Problem::new(
            Code::InvalidQuery,
            format!("{parameter} holds a NUL character: leave it out."),
        )),
        _ => Ok(()),
    }
}

/// The id in the path. One that cannot be an id finds nothing, and says what an id looks like.
#[derive(Debug)]
pub struct Id<T>(pub T);

impl<T, S> FromRequestParts<S> for Id<T>
where
    T: FromStr<Err: Display>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::from(Code::NotFound))?;
        text.parse()
            .map(Self)
            .map_err(|error| Problem::new(Code::NotFound, sentence(&error)))
    }
}

/// Scheme and host the client used, to make links to files absolute: `https://` where a proxy in front says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base(String);

impl Base {
    fn of(headers: &HeaderMap) -> Self {
        let scheme = match text(headers, &HeaderName::from_static("x-forwarded-proto")) {
            Some("https") => "https",
            _ => "http",
        };
        let host = text(headers, &header::HOST).filter(|host| host.parse::<Authority>().is_ok());
        Self(host.map_or_else(String::new, |host| format!("{scheme}://{host}")))
    }

    /// The whole link for a path of ours. Without a usable `Host` it stays a path.
    pub fn link(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl<S: Sync> FromRequestParts<S> for Base {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[expect(dead_code, reason = "only its type matters")]
        list: Vec<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only its type matters")]
        number: u8,
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_place() {
        let check = |text: &str, code, pointer: Option<&str>| {
            let problem = json::<Body>(text.as_bytes()).unwrap_err();
            assert_eq!(problem.code(), code, "{text}");
            let body = problem.body("", "");
            assert_eq!(
                body["errors"][0]["pointer"].as_str(),
                pointer,
                "{text}: {body}"
            );
        };
        check("", Code::MalformedJson, None);
        check("{", Code::MalformedJson, None);
        check("{\"list\":[]} x", Code::MalformedJson, None);
        check("[]", Code::InvalidRequest, Some(""));
        check("7", Code::InvalidRequest, Some(""));
        check(
            "{\"list\":[{\"number\":\"x\"}]}",
            Code::InvalidRequest,
            Some("/list/0/number"),
        );
        check(
            "{\"list\":[],\"a/b\":1}",
            Code::InvalidRequest,
            Some("/a~1b"),
        );
    }

    #[test]
    fn json_is_declared() {
        let declared = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            is_json(&headers)
        };
        assert!(declared("application/json"));
        assert!(declared("Application/JSON; charset=utf-8"));
        assert!(!declared("text/plain"));
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn links_lead_where_the_client_came_from() {
        let base = |pairs: &[(&'static str, &str)]| {
            let headers = pairs
                .iter()
                .map(|&(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
                .collect();
            Base::of(&headers).link("/files/a")
        };
        assert_eq!(
            base(&[("host", "localhost:8080")]),
            "http://localhost:8080/files/a"
        );
        assert_eq!(
            base(&[("host", "studio.example"), ("x-forwarded-proto", "https")]),
            "https://studio.example/files/a"
        );
        assert_eq!(base(&[("host", "a b")]), "/files/a");
        assert_eq!(base(&[]), "/files/a");
    }
}

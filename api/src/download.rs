//! Files over HTTP (RFC 9110): what a client has already is not sent again, and of a download that broke off only the rest is.

use std::ops::Range;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::error::{Code, Problem};

/// A strong tag of what these bytes say, in quotes: their SHA-256.
pub fn tag(of: impl AsRef<[u8]>) -> HeaderValue {
    let tag = format!("\"{}\"", hex::encode(Sha256::digest(of)));
    HeaderValue::from_str(&tag).expect("a hash in quotes is a header")
}

/// What is the same for everybody and was made once, with its tag.
#[derive(Clone)]
pub struct StaticContent {
    bytes: Bytes,
    media_type: &'static str,
    tag: HeaderValue,
}

impl StaticContent {
    pub fn new(media_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            tag: tag(&bytes),
            bytes,
            media_type,
        }
    }

    /// All of it, or that the client has it. It is asked for again each time, since it may change.
    pub fn respond(&self, asked: &HeaderMap) -> Response {
        let told = [
            (header::ETAG, self.tag.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        if is_known(asked, &self.tag) {
            return (StatusCode::NOT_MODIFIED, told).into_response();
        }
        let kind = [(header::CONTENT_TYPE, self.media_type)];
        (told, kind, self.bytes.clone()).into_response()
    }
}

/// Whether the client has what this tag is of.
pub fn is_known(asked: &HeaderMap, tag: &HeaderValue) -> bool {
    lists(asked, &header::IF_NONE_MATCH, tag)
}

/// The answer to a request for a file of `length` bytes: all of them (200), a range of them (206), or that the client has them (304).
/// `body` sends the bytes from the first number to before the second.
pub fn answer(
    method: &Method,
    asked: &HeaderMap,
    tag: HeaderValue,
    length: usize,
    body: impl FnOnce(Range<usize>) -> Body,
) -> Response {
    let mut response = if is_known(asked, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let (status, range) = match range(method, asked, &tag, length) {
            RequestedRange::All => (StatusCode::OK, 0..length),
            RequestedRange::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            RequestedRange::Nothing => return nothing(length),
        };
        sent(method, status, range, length, body)
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// How much of a file is wanted.
#[derive(Debug, PartialEq, Eq)]
enum RequestedRange {
    All,
    Part(Range<usize>),
    /// What the range begins with is behind the end.
    Nothing,
}

/// A range counts for GET only, and where `If-Range` names these very bytes. What cannot be read, several ranges and other units are
/// answered with everything, as the RFC allows.
fn range(method: &Method, asked: &HeaderMap, tag: &HeaderValue, length: usize) -> RequestedRange {
    let same = asked.get(header::IF_RANGE).is_none_or(|named| named == tag);
    let ranges = asked
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok());
    let range = ranges.and_then(|text| {
        let (unit, range) = text.split_once('=')?;
        let (first, last) = range.trim().split_once('-')?;
        unit.trim()
            .eq_ignore_ascii_case("bytes")
            .then_some((first.trim(), last.trim()))
    });
    let (Some((first, last)), true, &Method::GET) = (range, same, method) else {
        return RequestedRange::All;
    };
    // A number that is too large for us is behind every end.
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(usize::MAX))
    };
    let range = match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => first..length,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
        (None, Some(most)) if first.is_empty() => length.saturating_sub(most)..length,
        _ => return RequestedRange::All,
    };
    if range.start >= length || range.is_empty() {
        return RequestedRange::Nothing;
    }
    RequestedRange::Part(range)
}

fn sent(
    method: &Method,
    status: StatusCode,
    range: Range<usize>,
    length: usize,
    body: impl FnOnce(Range<usize>) -> Body,
) -> Response {
    let told = HeaderValue::from(range.len());
    let place = format!(
        "bytes {}-{}/{length}",
        range.start,
        range.end.saturating_sub(1)
    );
    let body = if *method == Method::HEAD {
        Body::empty()
    } else {
        body(range)
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, told);
    if status == StatusCode::PARTIAL_CONTENT {
        let place = HeaderValue::try_from(place).expect("numbers are a header");
        headers.insert(header::CONTENT_RANGE, place);
    }
    response
}

fn nothing(length: usize) -> Response {
    let detail = format!("The file has {length} bytes, and the range begins behind them.");
    let problem = Problem::new(Code::RangeNotSatisfiable, detail);
    let told = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
    (told, problem).into_response()
}

/// Whether a list of tags has this one, or any.
fn lists(asked: &HeaderMap, name: &HeaderName, tag: &HeaderValue) -> bool {
    let lines = asked.get_all(name).iter();
    let tags = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    // A weak tag of the same bytes will do: nothing is written.
    tags.map(|listed| listed.trim().trim_start_matches("W/"))
        .any(|listed| listed == "*" || listed.as_bytes() == tag.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    fn tag() -> String {
        super::tag(b"key").to_str().unwrap().to_owned()
    }

    fn status(method: &Method, pairs: &[(HeaderName, &str)]) -> (u16, Option<String>) {
        let send = |range: Range<usize>| Body::from(&"0123456789"[range]);
        let response = answer(method, &asked(pairs), super::tag(b"key"), 10, send);
        let told = response.headers().get(header::CONTENT_RANGE);
        let told = told.map(|range| range.to_str().unwrap().to_owned());
        if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
            assert_eq!(response.headers()[header::ETAG], tag().as_str());
        }
        (response.status().as_u16(), told)
    }

    #[test]
    fn a_range_is_a_part() {
        for (range, told) in [
            ("bytes=0-3", "bytes 0-3/10"),
            ("bytes=4-", "bytes 4-9/10"),
            ("bytes=-3", "bytes 7-9/10"),
            ("bytes=-99", "bytes 0-9/10"),
            ("Bytes = 8-99", "bytes 8-9/10"),
            ("bytes=9-99999999999999999999999", "bytes 9-9/10"),
        ] {
            let got = status(&Method::GET, &[(header::RANGE, range)]);
            assert_eq!(got, (206, Some(told.to_owned())), "{range}");
        }
        for behind in [
            "bytes=10-",
            "bytes=10-20",
            "bytes=-0",
            "bytes=99999999999999999999999-",
        ] {
            let got = status(&Method::GET, &[(header::RANGE, behind)]);
            assert_eq!(got, (416, Some("bytes */10".to_owned())), "{behind}");
        }
        for unread in [
            "bytes=3-1",
            "bytes=a-b",
            "bytes=-",
            "bytes=0-1,3-4",
            "lines=0-1",
            "0-1",
            "bytes=+1-2",
            "",
        ] {
            assert_eq!(
                status(&Method::GET, &[(header::RANGE, unread)]),
                (200, None),
                "{unread}"
            );
        }
        assert_eq!(
            status(&Method::HEAD, &[(header::RANGE, "bytes=0-3")]),
            (200, None)
        );
    }

    #[test]
    fn a_part_is_of_the_same_bytes_or_all_are_sent() {
        let with = |named: &str| {
            status(
                &Method::GET,
                &[(header::RANGE, "bytes=0-3"), (header::IF_RANGE, named)],
            )
            .0
        };
        assert_eq!(with(&tag()), 206);
        for other in [
            "\"other\"",
            &format!("W/{}", tag()),
            "Sat, 28 Nov 2026 10:00:00 GMT",
        ] {
            assert_eq!(with(other), 200, "{other}");
        }
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        let with = |listed: &str| {
            status(
                &Method::GET,
                &[
                    (header::IF_NONE_MATCH, listed),
                    (header::RANGE, "bytes=0-3"),
                ],
            )
            .0
        };
        for same in [
            tag(),
            format!("W/{}", tag()),
            format!("\"a\", {}", tag()),
            "*".to_owned(),
        ] {
            assert_eq!(with(&same), 304, "{same}");
        }
        assert_eq!(with("\"other\""), 206);
    }
}

//! Downloads (RFC 9110): conditional requests, so that a client does not download again what it has, and ranges, so that a client
//! can resume an interrupted download.

use std::ops::Range;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::error::{Code, Problem};

/// A strong entity tag (RFC 9110, 8.8.3): the SHA-256 of the bytes, in quotes.
pub fn tag(bytes: impl AsRef<[u8]>) -> HeaderValue {
    let tag = format!("\"{}\"", hex::encode(Sha256::digest(bytes)));
    HeaderValue::from_str(&tag).expect("a hash in quotes is a header")
}

/// Content that is the same for every client, with its entity tag, which is computed once.
#[derive(Clone)]
pub struct StaticContent {
    bytes: Bytes,
    media_type: &'static str,
    tag: HeaderValue,
}

impl StaticContent {
    /// Computes the tag of the content.
    pub fn new(media_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            tag: tag(&bytes),
            bytes,
            media_type,
        }
    }

    /// Answers with the whole content, or with 304 if the client has it already. Clients must ask each time, because the content
    /// may change.
    pub fn respond(&self, headers: &HeaderMap) -> Response {
        let about = [
            (header::ETAG, self.tag.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        if client_has(headers, &self.tag) {
            return (StatusCode::NOT_MODIFIED, about).into_response();
        }
        let content_type = [(header::CONTENT_TYPE, self.media_type)];
        (about, content_type, self.bytes.clone()).into_response()
    }
}

/// Whether the client already has the content with this tag (`If-None-Match`).
pub fn client_has(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    lists_tag(headers, &header::IF_NONE_MATCH, tag)
}

/// The answer to a request for a file of `length` bytes: all bytes (200), a range of them (206), 304 if the client has the file, or
/// 416 if the range has no byte of the file. `body` makes the body from a range of bytes.
pub fn answer(
    method: &Method,
    headers: &HeaderMap,
    tag: HeaderValue,
    length: usize,
    body: impl FnOnce(Range<usize>) -> Body,
) -> Response {
    let mut response = if client_has(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let (status, range) = match range(method, headers, &tag, length) {
            RequestedRange::All => (StatusCode::OK, 0..length),
            RequestedRange::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            RequestedRange::Unsatisfiable => return not_satisfiable(length),
        };
        content_response(method, status, range, length, body)
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// Which bytes of a file a client asks for.
#[derive(Debug, PartialEq, Eq)]
enum RequestedRange {
    All,
    Part(Range<usize>),
    /// The range begins after the end of the file, or asks for its last 0 bytes.
    Unsatisfiable,
}

/// Parses `Range`. The header counts only for GET. With `If-Range` it counts only if `If-Range` names the same bytes. A range that
/// cannot be parsed, several ranges, and units other than bytes are answered with the whole file, as RFC 9110 (14.2) allows.
fn range(method: &Method, headers: &HeaderMap, tag: &HeaderValue, length: usize) -> RequestedRange {
    let is_same_file = headers
        .get(header::IF_RANGE)
        .is_none_or(|named| named == tag);
    let ranges = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok());
    let range = ranges.and_then(|text| {
        let (unit, range) = text.split_once('=')?;
        let (first, last) = range.trim().split_once('-')?;
        unit.trim()
            .eq_ignore_ascii_case("bytes")
            .then_some((first.trim(), last.trim()))
    });
    let (Some((first, last)), true, &Method::GET) = (range, is_same_file, method) else {
        return RequestedRange::All;
    };
    // A number that does not fit into `usize` is after the end of every file.
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().unwrap_or(usize::MAX))
    };
    let range = match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => first..length,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
        // `-500` asks for the last 500 bytes.
        (None, Some(suffix)) if first.is_empty() => length.saturating_sub(suffix)..length,
        _ => return RequestedRange::All,
    };
    if range.start >= length || range.is_empty() {
        return RequestedRange::Unsatisfiable;
    }
    RequestedRange::Part(range)
}

/// Answers with the bytes of `range`, and with the headers for their length and place.
fn content_response(
    method: &Method,
    status: StatusCode,
    range: Range<usize>,
    length: usize,
    body: impl FnOnce(Range<usize>) -> Body,
) -> Response {
    let content_length = HeaderValue::from(range.len());
    // Sent only for a part, which is never empty.
    let content_range = format!(
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
    headers.insert(header::CONTENT_LENGTH, content_length);
    if status == StatusCode::PARTIAL_CONTENT {
        let content_range = HeaderValue::try_from(content_range).expect("numbers are a header");
        headers.insert(header::CONTENT_RANGE, content_range);
    }
    response
}

fn not_satisfiable(length: usize) -> Response {
    let detail = format!("The file has {length} bytes, and the range begins after them.");
    let problem = Problem::new(Code::RangeNotSatisfiable, detail);
    let content_range = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
    (content_range, problem).into_response()
}

/// Whether a header that lists tags has this tag, or `*`. Compares weakly, as `If-None-Match` does (RFC 9110, 13.1.2).
fn lists_tag(headers: &HeaderMap, name: &HeaderName, tag: &HeaderValue) -> bool {
    let lines = headers.get_all(name).iter();
    let tags = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    // `If-None-Match` compares weakly (RFC 9110, 13.1.2), so the `W/` of a weak tag is ignored.
    tags.map(|listed| listed.trim().trim_start_matches("W/"))
        .any(|listed| listed == "*" || listed.as_bytes() == tag.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
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
        let response = answer(method, &headers(pairs), super::tag(b"key"), 10, send);
        let content_range = response.headers().get(header::CONTENT_RANGE);
        let content_range = content_range.map(|range| range.to_str().unwrap().to_owned());
        if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
            assert_eq!(response.headers()[header::ETAG], tag().as_str());
        }
        (response.status().as_u16(), content_range)
    }

    #[test]
    fn a_range_gets_the_part_it_names() {
        for (range, content_range) in [
            ("bytes=0-3", "bytes 0-3/10"),
            ("bytes=4-", "bytes 4-9/10"),
            ("bytes=-3", "bytes 7-9/10"),
            ("bytes=-99", "bytes 0-9/10"),
            ("Bytes = 8-99", "bytes 8-9/10"),
            ("bytes=9-99999999999999999999999", "bytes 9-9/10"),
        ] {
            let got = status(&Method::GET, &[(header::RANGE, range)]);
            assert_eq!(got, (206, Some(content_range.to_owned())), "{range}");
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
    fn if_range_gets_a_part_only_of_the_same_bytes() {
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
    fn content_that_the_client_has_is_not_sent_again() {
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

//! Files over HTTP (RFC 9110): what a client has already is not sent again, and of a download that broke off only the rest is.

use std::ops::Range;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::error::{Code, Problem};

/// The answer to a request for these bytes: all of them (200), a range of them (206), or that the client has them (304).
pub fn answer(method: &Method, asked: &HeaderMap, bytes: Bytes) -> Response {
    let tag = format!("\"{}\"", hex::encode(Sha256::digest(&bytes)));
    let tag = HeaderValue::from_str(&tag).expect("a hash in quotes is a header");
    let mut response = if lists(asked, &header::IF_NONE_MATCH, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match range(method, asked, &tag, bytes.len()) {
            Wanted::All => bytes.into_response(),
            Wanted::Part(range) => part(&bytes, range),
            Wanted::Nothing => return nothing(bytes.len()),
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// How much of a file is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Range<usize>),
    /// What the range begins with is behind the end.
    Nothing,
}

/// A range counts for GET only, and where `If-Range` names these very bytes. What cannot be read, several ranges and other units are
/// answered with everything, as the RFC allows.
fn range(method: &Method, asked: &HeaderMap, tag: &HeaderValue, length: usize) -> Wanted {
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
        return Wanted::All;
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
        _ => return Wanted::All,
    };
    if range.start >= length || range.is_empty() {
        return Wanted::Nothing;
    }
    Wanted::Part(range)
}

fn part(bytes: &Bytes, range: Range<usize>) -> Response {
    let (first, last, length) = (range.start, range.end - 1, bytes.len());
    let told = [(
        header::CONTENT_RANGE,
        format!("bytes {first}-{last}/{length}"),
    )];
    (StatusCode::PARTIAL_CONTENT, told, bytes.slice(range)).into_response()
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
        format!("\"{}\"", hex::encode(Sha256::digest(b"0123456789")))
    }

    fn status(method: &Method, pairs: &[(HeaderName, &str)]) -> (u16, Option<String>) {
        let response = answer(method, &asked(pairs), Bytes::from_static(b"0123456789"));
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

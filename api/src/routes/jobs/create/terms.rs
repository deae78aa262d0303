//! What a request for a job says outside of its body.

use std::fmt;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use common::telemetry::traces::TraceParent;
use serde::Deserialize;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{Object, SchemaType, Type};
use utoipa::{IntoParams, openapi};

use crate::error::{Code, Problem};
use crate::extract::{Parameters, text};
use crate::request::Id;

pub const PREFER: HeaderName = HeaderName::from_static("prefer");
pub const CANCEL_AFTER: HeaderName = HeaderName::from_static("cancel-after");

const SECOND: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(1);
const DEFAULT_CANCEL_AFTER: Duration = Duration::from_hours(24);
const LONGEST_CANCEL_AFTER: Duration = Duration::from_hours(7 * 24);

/// Everything but the body.
#[derive(Debug)]
pub struct Terms {
    pub request_id: String,
    pub traceparent: Option<TraceParent>,
    /// Only quote, write nothing.
    pub dry_run: bool,
    /// Answer when the job has ended, if that is soon enough.
    pub wait: Option<Wait>,
    /// How long the job may stay open once it may run.
    pub cancel_after: Duration,
}

/// `Prefer: wait=N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(pub Duration);

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wait={}", self.0.as_secs())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Flags {
    #[serde(default)]
    dry_run: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Terms {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Parameters(Flags { dry_run }) = Parameters::from_request_parts(parts, state).await?;
        let id = parts.extensions.get::<Id>();
        Ok(Self {
            request_id: id.ok_or(Code::Internal)?.0.to_string(),
            traceparent: parts.extensions.get().cloned(),
            dry_run,
            wait: wait(&parts.headers),
            cancel_after: cancel_after(&parts.headers)?,
        })
    }
}

/// Preferences that are not understood are ignored, as RFC 7240 has it; a longer wait is cut short.
fn wait(headers: &HeaderMap) -> Option<Wait> {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|preference| preference.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, seconds)| seconds.trim().parse().ok())
        .map(Duration::from_secs)
        .filter(|wait| *wait >= SECOND)
        .map(|wait| Wait(wait.min(LONGEST_WAIT)))
}

fn cancel_after(headers: &HeaderMap) -> Result<Duration, Problem> {
    if !headers.contains_key(CANCEL_AFTER) {
        return Ok(DEFAULT_CANCEL_AFTER);
    }
    text(headers, &CANCEL_AFTER)
        .and_then(duration)
        .filter(|duration| (SECOND..=LONGEST_CANCEL_AFTER).contains(duration))
        .ok_or_else(|| {
            Problem::new(
                Code::InvalidHeader,
                "Cancel-After takes 1 second to 7 days, such as 90, 90s, 15m, 24h or 7d.",
            )
        })
}

/// A number and its unit; seconds without one.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    digits
        .parse::<u64>()
        .ok()?
        .checked_mul(unit)
        .map(Duration::from_secs)
}

/// For `/openapi.json`.
impl IntoParams for Terms {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = |place: ParameterIn, name: &str, kind: Type, description: &str| {
            ParameterBuilder::new()
                .name(name)
                .parameter_in(place)
                .required(openapi::Required::False)
                .description(Some(description))
                .schema(Some(Object::with_type(SchemaType::Type(kind))))
                .build()
        };
        vec![
            parameter(
                ParameterIn::Query,
                "dry_run",
                Type::Boolean,
                "Only quote: nothing is written",
            ),
            parameter(
                ParameterIn::Header,
                "Idempotency-Key",
                Type::String,
                "1 to 255 visible ASCII characters; made when missing. The same request with the same key is answered again, not done again",
            ),
            parameter(
                ParameterIn::Header,
                "Prefer",
                Type::String,
                "`wait=N`: answer when the job has ended, or after N seconds (1 to 60)",
            ),
            parameter(
                ParameterIn::Header,
                "Cancel-After",
                Type::String,
                "How long the job may stay open once it may run, such as `90s`, `15m`, `24h` or `7d`; 24 hours when missing",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn durations_are_a_number_and_a_unit() {
        let check = |text, seconds: Option<u64>| {
            let parsed = cancel_after(&headers(CANCEL_AFTER, text)).ok();
            assert_eq!(parsed, seconds.map(Duration::from_secs), "{text}");
        };
        check("90", Some(90));
        check("90s", Some(90));
        check("15m", Some(900));
        check("24h", Some(86_400));
        check("7d", Some(604_800));
        for bad in [
            "",
            "s",
            "0",
            "8d",
            "-1",
            "1.5h",
            "5 m",
            "1w",
            "99999999999999999999",
            "999999999999999999d",
        ] {
            check(bad, None);
        }
        assert_eq!(
            cancel_after(&HeaderMap::new()).unwrap(),
            DEFAULT_CANCEL_AFTER
        );
    }

    #[test]
    fn a_wait_is_a_preference() {
        let check = |text, expected: Option<&str>| {
            let wait = wait(&headers(PREFER, text)).map(|wait| wait.to_string());
            assert_eq!(wait.as_deref(), expected, "{text}");
        };
        check("wait=30", Some("wait=30"));
        check("respond-async, Wait = 5", Some("wait=5"));
        check("wait=600", Some("wait=60"));
        for ignored in ["", "wait", "wait=0", "wait=x", "return=minimal"] {
            check(ignored, None);
        }
    }
}

//! Options of `POST /v1/jobs` outside its body: query and headers.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use domain::traceparent::TraceParent;
use serde::Deserialize;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::{IntoParams, openapi};

use crate::error::{Code, Problem};
use crate::extract::{Parameters, single};
use crate::header_list::elements;
use crate::request::RequestId;

/// The header with the client's preferences (RFC 7240).
pub const PREFER: HeaderName = HeaderName::from_static("prefer");
/// The header with the time after which an open job expires.
pub const CANCEL_AFTER: HeaderName = HeaderName::from_static("cancel-after");

/// The shortest wait. A shorter wait is ignored.
const MIN_WAIT: Duration = Duration::from_secs(1);
/// The longest wait. A longer wait is shortened to this.
const MAX_WAIT: Duration = Duration::from_mins(1);
const MIN_CANCEL_AFTER: Duration = Duration::from_secs(1);
const DEFAULT_CANCEL_AFTER: Duration = Duration::from_hours(24);
const MAX_CANCEL_AFTER: Duration = Duration::from_hours(7 * 24);

/// The options of a submit.
#[derive(Debug)]
pub struct SubmitOptions {
    /// The id of the request.
    pub request_id: String,
    /// The span of this request, or else of the client. The worker continues its trace.
    pub traceparent: Option<TraceParent>,
    /// Whether the job is only quoted, and nothing is written.
    pub dry_run: bool,
    /// What the client prefers.
    pub prefer: Prefer,
    /// How long the job may stay open after its earliest start.
    pub cancel_after: Duration,
}

/// The preferences of a client that this API knows (`Prefer`, RFC 7240).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefer {
    /// How long to wait for the end of the job before answering.
    pub wait: Option<Duration>,
    /// Whether to answer at once, which is the default. With `wait`, the answer comes after the wait.
    respond_async: bool,
}

impl Prefer {
    /// Parses the header. If a preference is sent twice, the first counts, and unknown preferences are ignored (RFC 7240, 2).
    fn from_headers(headers: &HeaderMap) -> Self {
        let elements = elements(headers, &PREFER);
        // The first pair of an element is the preference. Other pairs are its parameters, and none of them is known.
        let preferences: Vec<_> = elements.iter().map(|element| &element[0]).collect();
        let first = |wanted| preferences.iter().find(|(name, _)| name == wanted);
        let seconds = first("wait").and_then(|(_, value)| value.as_deref()?.parse().ok());
        let wait = seconds
            .map(Duration::from_secs)
            .filter(|wait| *wait >= MIN_WAIT);
        Self {
            wait: wait.map(|wait| wait.min(MAX_WAIT)),
            respond_async: first("respond-async").is_some(),
        }
    }

    /// These preferences without the wait.
    #[must_use]
    pub fn without_wait(self) -> Self {
        Self { wait: None, ..self }
    }

    /// The value of `Preference-Applied`, which names these preferences; `None` if there are none.
    pub fn applied(self) -> Option<String> {
        let wait = self.wait.map(|wait| format!("wait={}", wait.as_secs()));
        let respond_async = self.respond_async.then(|| "respond-async".to_owned());
        let applied: Vec<String> = respond_async.into_iter().chain(wait).collect();
        (!applied.is_empty()).then(|| applied.join(", "))
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Flags {
    /// If `true`, the job is only quoted, and nothing is written.
    #[serde(default)]
    #[param(default = false)]
    dry_run: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for SubmitOptions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Parameters(Flags { dry_run }) = Parameters::from_request_parts(parts, state).await?;
        let request_id = parts.extensions.get::<RequestId>();
        Ok(Self {
            request_id: request_id.ok_or(Code::Internal)?.0.to_string(),
            traceparent: parts.extensions.get().cloned(),
            dry_run,
            prefer: Prefer::from_headers(&parts.headers),
            cancel_after: cancel_after(&parts.headers)?,
        })
    }
}

/// Reads `Cancel-After`: how long the job may stay open after its earliest start.
fn cancel_after(headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(header) = single(headers, &CANCEL_AFTER)? else {
        return Ok(DEFAULT_CANCEL_AFTER);
    };
    let text = header.to_str().ok();
    text.and_then(duration)
        .filter(|duration| (MIN_CANCEL_AFTER..=MAX_CANCEL_AFTER).contains(duration))
        .ok_or_else(|| {
            Problem::new(
                Code::InvalidHeader,
                "Cancel-After takes 1 second to 7 days, such as 90, 90s, 15m, 24h or 7d.",
            )
        })
}

/// Parses a whole number with an optional unit `s`, `m`, `h` or `d`; without a unit it is seconds. Returns `None` for any other text.
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

/// Describes the headers and the query for `/openapi.json`.
impl IntoParams for SubmitOptions {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = |name: &str, pattern: &str, description: &str| {
            let text = ObjectBuilder::new().schema_type(Type::String);
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Header)
                .required(openapi::Required::False)
                .description(Some(description))
                .schema(Some(text.pattern(Some(pattern))))
                .build()
        };
        let headers = [
            // The description and the pattern of the key are added when the document is completed (`openapi/complete.rs`).
            parameter("Idempotency-Key", ".*", ""),
            parameter(
                "Prefer",
                ".*",
                "`wait=N`: answer when the job has ended, but after N seconds (1 to 60) at the latest. `respond-async`: answer at once, which is the default",
            ),
            parameter(
                "Cancel-After",
                "^([1-9][0-9]{0,4}s?|[1-9][0-9]{0,3}m|[1-9][0-9]?h|1[0-5][0-9]h|16[0-8]h|[1-7]d)$",
                "How long the job may stay open after its earliest start, such as `90s`, `15m`, `24h` or `7d`; then it expires. 24 hours if it is missing",
            ),
        ];
        let mut parameters = Flags::into_params(|| Some(ParameterIn::Query));
        parameters.extend(headers);
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
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
    fn preferences_are_parsed_as_rfc_7240_says() {
        let check = |lines: &[&str], applied: Option<&str>| {
            let lines = lines.iter().map(|line| (PREFER, line.parse().unwrap()));
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, value);
            }
            assert_eq!(
                Prefer::from_headers(&headers).applied().as_deref(),
                applied,
                "{headers:?}"
            );
        };
        check(&["wait=30"], Some("wait=30"));
        check(&["wait=600"], Some("wait=60"));
        check(&["wait=10; foo"], Some("wait=10"));
        check(&["wait=\"10\";foo=\"a,b\""], Some("wait=10"));
        check(&["respond-async, Wait = 5"], Some("respond-async, wait=5"));
        check(&["foo; bar=\"wait=9, x\", wait=5"], Some("wait=5"));
        check(
            &["return=minimal", "handling=lenient, WAIT=7"],
            Some("wait=7"),
        );
        check(&["wait=5, wait=9"], Some("wait=5"));
        check(&["respond-async"], Some("respond-async"));
        for ignored in [
            "",
            "wait",
            "wait=0",
            "wait=x",
            "wait=-1",
            "foo; wait=5",
            "return=minimal",
        ] {
            check(&[ignored], None);
        }
    }
}

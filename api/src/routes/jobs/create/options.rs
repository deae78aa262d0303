//! What a request for a job says outside of its body.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use common::telemetry::traces::TraceParent;
use serde::Deserialize;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::{IntoParams, openapi};

use crate::error::{Code, Problem};
use crate::extract::{Parameters, single};
use crate::header_list::elements;
use crate::request::Id;

pub const PREFER: HeaderName = HeaderName::from_static("prefer");
pub const CANCEL_AFTER: HeaderName = HeaderName::from_static("cancel-after");

const MIN_CANCEL_AFTER: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_mins(1);
const DEFAULT_CANCEL_AFTER: Duration = Duration::from_hours(24);
const MAX_CANCEL_AFTER: Duration = Duration::from_hours(7 * 24);

/// Everything but the body.
#[derive(Debug)]
pub struct SubmitOptions {
    pub request_id: String,
    pub traceparent: Option<TraceParent>,
    /// Only quote, write nothing.
    pub dry_run: bool,
    pub prefer: Prefer,
    /// How long the job may stay open once it may run.
    pub cancel_after: Duration,
}

/// What a client would rather have, of what we know (`Prefer`, RFC 7240).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefer {
    /// Answer when the job has ended, if that is soon enough.
    pub wait: Option<Duration>,
    /// Answer at once. That is what happens anyway; with `wait` it is what happens after that.
    respond_async: bool,
}

impl Prefer {
    /// Of a preference that is there twice the first counts, as the RFC has it. What is not understood is ignored, and a longer wait
    /// is cut short.
    fn of(headers: &HeaderMap) -> Self {
        let elements = elements(headers, &PREFER);
        let preferences: Vec<_> = elements.iter().map(|element| &element[0]).collect();
        let first = |wanted| preferences.iter().find(|(name, _)| name == wanted);
        let seconds = first("wait").and_then(|(_, value)| value.as_deref()?.parse().ok());
        let wait = seconds
            .map(Duration::from_secs)
            .filter(|wait| *wait >= MIN_CANCEL_AFTER);
        Self {
            wait: wait.map(|wait| wait.min(MAX_WAIT)),
            respond_async: first("respond-async").is_some(),
        }
    }

    /// The same, where nobody waits.
    #[must_use]
    pub fn without_wait(self) -> Self {
        Self { wait: None, ..self }
    }

    /// `Preference-Applied`: what of it was done; `None`: nothing was asked for.
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
    /// Only quote: nothing is written.
    #[serde(default)]
    #[param(default = false)]
    dry_run: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for SubmitOptions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Parameters(Flags { dry_run }) = Parameters::from_request_parts(parts, state).await?;
        let id = parts.extensions.get::<Id>();
        Ok(Self {
            request_id: id.ok_or(Code::Internal)?.0.to_string(),
            traceparent: parts.extensions.get().cloned(),
            dry_run,
            prefer: Prefer::of(&parts.headers),
            cancel_after: cancel_after(&parts.headers)?,
        })
    }
}

fn cancel_after(headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(said) = single(headers, &CANCEL_AFTER)? else {
        return Ok(DEFAULT_CANCEL_AFTER);
    };
    let said = said.to_str().ok();
    said.and_then(duration)
        .filter(|duration| (MIN_CANCEL_AFTER..=MAX_CANCEL_AFTER).contains(duration))
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
            parameter(
                "Idempotency-Key",
                ".*",
                "1 to 255 visible ASCII characters; made when missing. The same request with the same key is answered again, not done again",
            ),
            parameter(
                "Prefer",
                ".*",
                "`wait=N`: answer when the job has ended, or after N seconds (1 to 60)",
            ),
            parameter(
                "Cancel-After",
                "^([1-9][0-9]{0,4}s?|[1-9][0-9]{0,3}m|[1-9][0-9]?h|1[0-5][0-9]h|16[0-8]h|[1-7]d)$",
                "How long the job may stay open once it may run, such as `90s`, `15m`, `24h` or `7d`; 24 hours when missing",
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
    fn preferences_are_read_as_the_rfc_has_it() {
        let check = |lines: &[&str], applied: Option<&str>| {
            let lines = lines.iter().map(|line| (PREFER, line.parse().unwrap()));
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, value);
            }
            assert_eq!(
                Prefer::of(&headers).applied().as_deref(),
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

//! Errors as clients see them: RFC 9457 problems. Each has a stable code and tells the reader what to do.
//!
//! To add a kind of problem, add a line to the table below. `/errors` serves the table, and `docs/api.md` repeats it.

mod conversions;

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::allowance::AllowanceUsage;
use domain::generation::Violation;
use imaging::ImagingError;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

macro_rules! codes {
    ($($name:ident $code:literal $status:ident $title:literal, $advice:literal;)*) => {
        /// The kind of a problem. Programs compare its code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $(
                #[doc = $title]
                $name,
            )*
        }

        impl Code {
            /// All codes, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable code, such as `invalid_request`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status of an answer with this code.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// What happened, in a few words.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What the client should do.
            pub fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)* }
            }
        }
    };
}

codes! {
    MalformedJson "malformed_json" BAD_REQUEST "The body is not JSON",
        "Send one JSON object, in UTF-8; the detail says where reading stopped.";
    InvalidQuery "invalid_query" BAD_REQUEST "A query parameter is not usable",
        "Change the parameter the detail names.";
    InvalidHeader "invalid_header" BAD_REQUEST "A header is not usable",
        "Change the header the detail names.";
    Unauthenticated "unauthenticated" UNAUTHORIZED "An API key is needed",
        "Send `Authorization: Bearer pk_…` with a key that was not revoked.";
    InsufficientCredits "insufficient_credits" PAYMENT_REQUIRED "There are not enough credits",
        "Ask for less, or add credits; `needed` and `available` say how many are missing.";
    TenantInactive "tenant_inactive" FORBIDDEN "This tenant may not submit jobs at present",
        "Ask whoever runs this service; jobs and files can still be read.";
    Forbidden "forbidden" FORBIDDEN "You do not hold the permission that this needs",
        "Use a key or a role that holds the permission that `permission` names.";
    NetworkNotAllowed "network_not_allowed" FORBIDDEN "This key may not be used from your network",
        "Use the key from a network that it is limited to, or another key.";
    BadLink "bad_link" FORBIDDEN "The link is wrong or has expired",
        "Links expire: GET /v1/artifacts/{id} gives a fresh one.";
    NotFound "not_found" NOT_FOUND "Nothing was found",
        "Check the path and the id; an id of another kind, or of another tenant, is not found.";
    Gone "gone" GONE "The file was deleted",
        "Its retention time was over, or its owner deleted it: GET /v1/receipts says when, and GET /v1/retention how long files are kept.";
    UnknownModel "unknown_model" NOT_FOUND "There is no such model",
        "GET /v1/models lists the models there are.";
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "The path does not support this method",
        "Use a method the `Allow` header names.";
    UploadInUse "upload_in_use" CONFLICT "Open jobs need this upload",
        "Delete it when they have ended, or cancel them.";
    CancelAllowanceUsed "cancel_allowance_used" CONFLICT "Too many calls of this tenant were abandoned in the last hour",
        "Let the job go on: it is delivered and charged. Or repeat the request after `Retry-After` seconds; a new job may have a `Cancel-After` of `least` seconds or more, or none.";
    TooManyKeys "too_many_keys" CONFLICT "There are too many API keys",
        "Revoke a key that is not needed: GET /v1/keys says when each was last used.";
    KeyNotActive "key_not_active" CONFLICT "The key was revoked, has expired or was rotated before",
        "Rotate its successor, or make a new key.";
    StorageFull "storage_full" CONFLICT "The storage limit would be exceeded",
        "Delete uploads, or set how long files are kept (PUT /v1/retention); GET /v1/storage says how much is in use and how much is allowed.";
    JobAlreadyEnded "job_already_ended" CONFLICT "The job has ended already",
        "Nothing needs to be done: a job ends once, and GET /v1/jobs/{id} says how.";
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE "The body is too large",
        "Send at most 29 MiB: images of 20 MiB in all before base64; an upload of at most 20 MiB.";
    RangeNotSatisfiable "range_not_satisfiable" RANGE_NOT_SATISFIABLE "The range begins after the end of the file",
        "Ask for a range within the size that `Content-Range` names.";
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE "The body is not declared as JSON",
        "Send `Content-Type: application/json`.";
    UnsupportedEncoding "unsupported_encoding" UNSUPPORTED_MEDIA_TYPE "The body is compressed in an unknown way",
        "Send the body uncompressed, or with `Content-Encoding: gzip` or `zstd`, only one of them and only once.";
    InvalidRequest "invalid_request" UNPROCESSABLE_ENTITY "The request is not valid",
        "Change the places that `errors` names; each pointer leads into the body.";
    ModelShutDown "model_shut_down" UNPROCESSABLE_ENTITY "The model is no longer offered",
        "Use its successor.";
    IdempotencyKeyReused "idempotency_key_reused" UNPROCESSABLE_ENTITY "The idempotency key belongs to another request",
        "Repeat a request byte for byte, or give the new one a key of its own.";
    NoDirectUploads "no_direct_uploads" CONFLICT "Direct uploads are not offered",
        "Send the file to POST /v1/uploads; `direct_uploads` of GET /v1/uploads says whether direct uploads are offered.";
    RateLimited "rate_limited" TOO_MANY_REQUESTS "Too many requests were sent",
        "Repeat the request after `Retry-After` seconds; `RateLimit` says how many are left.";
    Internal "internal" INTERNAL_SERVER_ERROR "Something failed on our side",
        "Repeat the request with the same Idempotency-Key; if it fails again, report its request_id.";
    Timeout "timeout" SERVICE_UNAVAILABLE "The request took too long",
        "Repeat it with the same Idempotency-Key: nothing happens twice.";
    Overloaded "overloaded" SERVICE_UNAVAILABLE "The service is overloaded",
        "Repeat the request after `Retry-After` seconds with the same Idempotency-Key, and send fewer at once.";
    Unavailable "unavailable" SERVICE_UNAVAILABLE "The service cannot answer at the moment",
        "Repeat the request after `Retry-After` seconds with the same Idempotency-Key.";
}

/// An error that is returned to the client. [`crate::request::finish_response`] writes it as a body and adds the id and path of the request.
#[derive(Clone, Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    /// What is wrong with the body; empty for all codes but [`Code::InvalidRequest`].
    errors: Vec<Violation>,
    /// Members that only this code has, such as `needed` and `available`.
    members: Map<String, Value>,
    /// The value of `Retry-After`, in seconds. If it is `None`, a 503 has the usual value, and other answers do not have the
    /// header.
    retry_after: Option<u64>,
}

/// The most violations that are reported for one body.
const MAX_ERRORS: usize = 50;
/// The most characters of a client's name or value that an error repeats.
const MAX_NAME_LENGTH: usize = 100;
/// The most characters of a pointer or path.
const MAX_PATH_LENGTH: usize = 500;
/// The most characters of a detail.
const MAX_DETAIL_LENGTH: usize = 2_000;
/// The value of `Retry-After` of a 503 that has no value of its own, in seconds.
const UNAVAILABLE_RETRY_SECONDS: HeaderValue = HeaderValue::from_static("2");

/// Shortens a client's name or value for an error: to 100 characters, with `…` at the end if it was longer.
pub fn truncate(text: &str) -> Cow<'_, str> {
    truncate_to(text, MAX_NAME_LENGTH)
}

fn truncate_to(text: &str, max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// The result of a handler.
pub type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    /// A problem with a detail of its own. `Problem::from(code)` uses the code's advice as the detail.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            members: Map::new(),
            retry_after: None,
        }
    }

    /// Makes a problem of [`Code::InvalidRequest`] for everything that is wrong with a body. Reports at most 50 violations, and how
    /// many more there are.
    pub fn invalid(mut errors: Vec<Violation>) -> Self {
        let omitted = errors.len().saturating_sub(MAX_ERRORS);
        let detail = match errors.as_slice() {
            [only] => only.detail.clone(),
            several if omitted == 0 => {
                format!("{} things need to be changed: see errors", several.len())
            }
            several => format!(
                "{} things need to be changed: errors has the first {MAX_ERRORS}, and {omitted} more are left out",
                several.len()
            ),
        };
        errors.truncate(MAX_ERRORS);
        Self {
            errors,
            ..Self::new(Code::InvalidRequest, detail)
        }
    }

    /// Makes a problem of [`Code::CancelAllowanceUsed`], with `Retry-After`. `detail` says what the client can do until
    /// more calls may be abandoned.
    pub fn allowance_used(usage: AllowanceUsage, detail: impl std::fmt::Display) -> Self {
        let calls = usage.calls;
        let seconds = usage.retry_after.as_secs().max(1);
        Self {
            retry_after: Some(seconds),
            ..Self::new(
                Code::CancelAllowanceUsed,
                format!(
                    "In the last hour {calls} calls that had begun were abandoned by canceling jobs or by their deadlines. No more may be \
                     abandoned for {seconds} s. {detail}"
                ),
            )
        }
        .with("abandoned", calls)
    }

    /// Makes a problem of [`Code::NotFound`] for an id. The answer is the same if the id belongs to another tenant, so that it
    /// reveals nothing.
    pub fn no_such(noun: &str, id: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("There is no {noun} {id}."))
    }

    /// Adds a member that only this code has.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.members.insert(member.to_owned(), value.into());
        self
    }

    /// The kind of the problem.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The body of the answer. `instance` is the path of the request. Long pointers, details and paths are shortened, because they
    /// may repeat what the client sent.
    pub fn body(&self, request_id: &str, instance: &str) -> Value {
        let mut body = json!({
            "type": format!("/errors/{}", self.code.as_str()),
            "title": self.code.title(),
            "status": self.code.status().as_u16(),
            "detail": truncate_to(&self.detail, MAX_DETAIL_LENGTH),
            "instance": truncate_to(instance, MAX_PATH_LENGTH),
            "code": self.code.as_str(),
            "request_id": request_id,
        });
        if !self.errors.is_empty() {
            let errors = self.errors.iter().map(|violation| {
                json!({
                    "pointer": truncate_to(&violation.pointer, MAX_PATH_LENGTH),
                    "detail": truncate_to(&violation.detail, MAX_DETAIL_LENGTH),
                })
            });
            body["errors"] = errors.collect();
        }
        for (member, value) in &self.members {
            body[member] = value.clone();
        }
        body
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        Self::new(code, code.advice())
    }
}

impl IntoResponse for Problem {
    /// Makes an answer without a body. [`crate::request::finish_response`] finds the problem in the extensions and writes the body.
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        let headers = response.headers_mut();
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.code == Code::UnsupportedEncoding {
            headers.insert(
                header::ACCEPT_ENCODING,
                HeaderValue::from_static("gzip, zstd"),
            );
        }
        if self.code.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, UNAVAILABLE_RETRY_SECONDS);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// An error, as RFC 9457 describes it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// The path of the page that explains the code.
    #[schema(example = "/errors/invalid_request")]
    pub r#type: String,
    /// What happened, in a few words. The text is the same for every problem with this code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened to this request, and what to do.
    pub detail: String,
    /// The path of the request.
    pub instance: String,
    /// The stable code for programs to compare.
    #[schema(example = "invalid_request")]
    pub code: String,
    /// The id of the request. Name it when you ask for help.
    pub request_id: String,
    /// Everything that is wrong with the body, each with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<Violation>,
}

/// Says what is wrong with an image that a client sent, and, if that helps, what to do about it.
pub fn explain_image_error(error: &ImagingError) -> String {
    let problem = sentence(error);
    match error {
        ImagingError::Unreadable { .. } => {
            format!("{problem} Send the whole file again, or save the image again.")
        }
        _ => problem,
    }
}

/// Writes an error as a sentence: with a capital letter at its beginning, and a full stop if it does not end with `.`, `!` or `?`.
pub fn sentence(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let ends = text.ends_with(['.', '!', '?']);
    let mut characters = text.chars();
    let first = characters.next().map(char::to_uppercase);
    first
        .into_iter()
        .flatten()
        .chain(characters)
        .chain((!ends).then_some('.'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_the_same_table_of_codes() {
        let documented = include_str!("../../docs/api.md");
        for code in Code::ALL {
            let row = format!(
                "| {} | `{}` | {} | {} |",
                code.status().as_u16(),
                code.as_str(),
                code.title(),
                code.advice()
            );
            assert!(
                documented.contains(&row),
                "docs/api.md lacks this row:\n{row}"
            );
        }
    }

    #[test]
    fn a_sentence_ends_once() {
        assert_eq!(sentence(&"too large"), "Too large.");
        assert_eq!(sentence(&"It is too large."), "It is too large.");
    }

    #[test]
    fn a_transient_failure_is_503_with_retry_after() {
        let problem = Problem::from(sqlx::Error::PoolTimedOut);
        assert_eq!(problem.code(), Code::Unavailable);
        assert_eq!(problem.into_response().headers()[header::RETRY_AFTER], "2");
        assert_eq!(
            Problem::from(sqlx::Error::RowNotFound).code(),
            Code::Internal
        );
    }

    #[test]
    fn a_single_violation_becomes_the_detail() {
        let body =
            Problem::invalid(vec![Violation::new("/size", "too large")]).body("req_1", "/v1/jobs");
        assert_eq!(body["detail"], "too large");
        assert_eq!(body["errors"][0]["pointer"], "/size");
    }
}

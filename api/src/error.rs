//! What goes wrong, as RFC 9457 problems: each has a stable code, and each tells the reader what to do.
//!
//! A new kind of problem is a line in the table below; `/errors` serves the table and `docs/api.md` repeats it.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::admission::Refusal;
use common::allowance::Used;
use common::bucket::BucketError;
use common::catalog::NotOffered;
use common::database;
use common::generation::Violation;
use common::operator::OperatorError;
use common::settlement::SettlementError;
use imaging::ImagingError;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

macro_rules! codes {
    ($($name:ident $code:literal $status:ident $title:literal, $advice:literal;)*) => {
        /// Which problem it is. The code is what programs compare.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($name,)* }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable code.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// What it is, in a few words.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What to do about it.
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
    InsufficientCredits "insufficient_credits" PAYMENT_REQUIRED "The credits do not suffice",
        "Ask for less, or add credits; `needed` and `available` say how many are missing.";
    TenantInactive "tenant_inactive" FORBIDDEN "This tenant may not submit jobs at present",
        "Ask whoever runs this service; jobs and files can still be read.";
    BadLink "bad_link" FORBIDDEN "The link does not, or no longer, open this file",
        "Links work for a while only: GET /v1/artifacts/{id} gives a fresh one.";
    NotFound "not_found" NOT_FOUND "There is nothing here",
        "Check the path and the id; an id of another kind, or of another tenant, finds nothing.";
    Gone "gone" GONE "The file was deleted",
        "Its time was over, or its owner deleted it: GET /v1/receipts tells when, and GET /v1/retention how long files are kept.";
    UnknownModel "unknown_model" NOT_FOUND "There is no such model",
        "GET /v1/models lists the models there are.";
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "The path does not take this method",
        "Use a method the `Allow` header names.";
    UploadInUse "upload_in_use" CONFLICT "Open jobs need this upload",
        "Delete it when they have ended, or cancel them.";
    CancelAllowanceUsed "cancel_allowance_used" CONFLICT "Too many calls of this tenant were abandoned in the last hour",
        "Let the job go on: it is delivered and charged. Or repeat the request after `Retry-After` seconds; a new job may have a `Cancel-After` of `least` seconds or more, or none.";
    StorageFull "storage_full" CONFLICT "There is no room for these files",
        "Delete uploads, or have files deleted after a time (PUT /v1/retention); GET /v1/storage tells how much is in use and how much there may be.";
    JobAlreadyEnded "job_already_ended" CONFLICT "The job has ended already",
        "Nothing needs to be done: a job ends once, and GET /v1/jobs/{id} tells how.";
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE "The body is too large",
        "Send at most 29 MiB: pictures of 20 MiB in all before base64; an upload of at most 20 MiB.";
    RangeNotSatisfiable "range_not_satisfiable" RANGE_NOT_SATISFIABLE "The file does not reach that far",
        "Ask for a range within the bytes that `Content-Range` tells.";
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE "The body is not declared as JSON",
        "Send `Content-Type: application/json`.";
    UnsupportedEncoding "unsupported_encoding" UNSUPPORTED_MEDIA_TYPE "The body is encoded in a way we do not know",
        "Send the body plainly, or with `Content-Encoding: gzip` or `zstd`, one of them and once.";
    InvalidRequest "invalid_request" UNPROCESSABLE_ENTITY "The request cannot be carried out as it is",
        "Change what `errors` names; each pointer leads into the body.";
    ModelShutDown "model_shut_down" UNPROCESSABLE_ENTITY "The model is no longer offered",
        "Use its successor.";
    IdempotencyKeyReused "idempotency_key_reused" UNPROCESSABLE_ENTITY "The idempotency key belongs to another request",
        "Repeat a request byte for byte, or give the new one a key of its own.";
    NoDirectUploads "no_direct_uploads" CONFLICT "Files are taken by this service itself only",
        "Send the file to POST /v1/uploads; `direct_uploads` of GET /v1/uploads says beforehand which of the two is taken.";
    RateLimited "rate_limited" TOO_MANY_REQUESTS "Too many requests came",
        "Repeat the request after `Retry-After` seconds; `RateLimit` tells how many are left.";
    Internal "internal" INTERNAL_SERVER_ERROR "Something failed on our side",
        "Repeat the request with the same Idempotency-Key; if it fails again, report its request_id.";
    Timeout "timeout" SERVICE_UNAVAILABLE "The request took too long",
        "Repeat it with the same Idempotency-Key: nothing happens twice.";
    Overloaded "overloaded" SERVICE_UNAVAILABLE "There is no room for the request at the moment",
        "Repeat the request after `Retry-After` seconds with the same Idempotency-Key, and send fewer at once.";
    Unavailable "unavailable" SERVICE_UNAVAILABLE "The service cannot answer at the moment",
        "Repeat the request after `Retry-After` seconds with the same Idempotency-Key.";
}

/// A problem, on its way to the client. [`crate::request::answer`] adds what only the request knows.
#[derive(Clone, Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    errors: Vec<Violation>,
    /// Members of this code only, such as how many credits are missing.
    more: Map<String, Value>,
    /// Seconds after which it may be otherwise, where that is known.
    retry_after: Option<u64>,
}

/// Most violations that are told of one body.
const MAX_ERRORS: usize = 50;
/// Most characters of a name or value that a client sent and is told again.
const MAX_NAME_LENGTH: usize = 100;
/// Most characters of a pointer or path, and of a detail.
const MAX_POINTER_LENGTH: usize = 500;
const MAX_DETAIL_LENGTH: usize = 2_000;

/// A name or value of the client's, as an error tells it: its first 100 characters, and `…` where there are more.
pub fn truncate(text: &str) -> Cow<'_, str> {
    truncate_to(text, MAX_NAME_LENGTH)
}

fn truncate_to(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// A handler's end.
pub type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            more: Map::new(),
            retry_after: None,
        }
    }

    /// A body in which each of these is wrong. At most [`MOST_ERRORS`] are told, and how many more there are.
    pub fn invalid(mut errors: Vec<Violation>) -> Self {
        let more = errors.len().saturating_sub(MAX_ERRORS);
        let detail = match errors.as_slice() {
            [only] => only.detail.clone(),
            several if more == 0 => {
                format!("{} things need to be changed: see errors", several.len())
            }
            several => format!(
                "{} things need to be changed: errors has the first {MAX_ERRORS}, and {more} more are left out",
                several.len()
            ),
        };
        errors.truncate(MAX_ERRORS);
        Self {
            errors,
            ..Self::new(Code::InvalidRequest, detail)
        }
    }

    /// Too many calls were abandoned: what may be done, and when it is otherwise.
    pub fn allowance_used(used: Used, detail: impl std::fmt::Display) -> Self {
        let calls = used.calls;
        let seconds = used.retry_after.as_secs().max(1);
        Self {
            retry_after: Some(seconds),
            ..Self::new(
                Code::CancelAllowanceUsed,
                format!(
                    "In the last hour {calls} calls that had begun were abandoned by canceling jobs or by their deadlines, and no more \
                     may be for {seconds} s. {detail}"
                ),
            )
        }
        .with("abandoned", calls)
    }

    /// There is none of these with this id, or it is another tenant's: which of the two is not told.
    pub fn no_such(noun: &str, id: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("There is no {noun} {id}."))
    }

    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.more.insert(member.to_owned(), value.into());
        self
    }

    pub fn code(&self) -> Code {
        self.code
    }

    /// The body of the answer. `instance` is the path that was asked for. What a client sent is told back in part: a long pointer,
    /// detail or path is cut.
    pub fn body(&self, request_id: &str, instance: &str) -> Value {
        let mut body = json!({
            "type": format!("/errors/{}", self.code.as_str()),
            "title": self.code.title(),
            "status": self.code.status().as_u16(),
            "detail": truncate_to(&self.detail, MAX_DETAIL_LENGTH),
            "instance": truncate_to(instance, MAX_POINTER_LENGTH),
            "code": self.code.as_str(),
            "request_id": request_id,
        });
        if !self.errors.is_empty() {
            let told = self.errors.iter().map(|violation| {
                json!({
                    "pointer": truncate_to(&violation.pointer, MAX_POINTER_LENGTH),
                    "detail": truncate_to(&violation.detail, MAX_DETAIL_LENGTH),
                })
            });
            body["errors"] = told.collect();
        }
        for (member, value) in &self.more {
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
    /// Without a body: [`crate::request::answer`] finds the problem in the extensions and writes it.
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
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// What the problem looks like, for `/openapi.json`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Where the code is explained.
    #[schema(example = "/errors/invalid_request")]
    pub r#type: String,
    /// What it is, in a few words.
    pub title: String,
    pub status: u16,
    /// What happened here, and what to do.
    pub detail: String,
    /// The path that was asked for.
    pub instance: String,
    /// Stable: what programs compare.
    #[schema(example = "invalid_request")]
    pub code: String,
    pub request_id: String,
    /// What is wrong with the body, place by place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<Violation>,
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        if database::schema_changed(&error) || is_transient(&error) {
            tracing::warn!(%error, "Postgres could not answer");
            Self::from(Code::Unavailable)
        } else {
            tracing::error!(%error, "Postgres refused what the api asked");
            Self::from(Code::Internal)
        }
    }
}

/// Whether the trouble is the database's and may pass: lost connections, locks, restarts. Anything else is ours.
fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        // Classes: connection, transaction rollback, resources, locks and state, operator, system.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "25", "40", "53", "55", "57", "58"]
                .iter()
                .any(|class| code.starts_with(class))
        }),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::InsufficientCredits { needed, available } => Self::new(
                Code::InsufficientCredits,
                format!(
                    "This needs {needed}, and {available} are available. Ask for less, or add credits."
                ),
            )
            .with("needed", needed.get())
            .with("available", available.get()),
            Refusal::UploadGone => Self::new(
                Code::Gone,
                "An upload it names was deleted in this moment: leave it out.",
            ),
            Refusal::AllowanceUsed { used, least } => {
                let least = least.as_secs();
                Self::allowance_used(
                    used,
                    format!(
                        "Until then leave `Cancel-After` out, or send {least} or more: as long as this model may take."
                    ),
                )
                .with("least", least)
            }
            Refusal::StorageFull {
                more,
                stored,
                limit,
            } => Self::new(
                Code::StorageFull,
                format!(
                    "This needs {more} bytes, and {stored} of {limit} are in use. Delete uploads, or have files deleted after a time (PUT \
                     /v1/retention)."
                ),
            )
            .with("needed", more)
            .with("stored", stored)
            .with("limit", limit),
            refusal @ Refusal::Redriven(_) => {
                tracing::error!(%refusal, "A tenant's own job was refused as an operator's");
                Self::from(Code::Internal)
            }
            Refusal::Inactive => Self::from(Code::TenantInactive),
            Refusal::KeyReused => Self::from(Code::IdempotencyKeyReused),
            Refusal::Amount(error) => {
                tracing::error!(%error, "A quote cannot be counted");
                Self::from(Code::Internal)
            }
            Refusal::Database(error) => error.into(),
        }
    }
}

impl From<OperatorError> for Problem {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::TooMuch { .. } => {
                let detail = format!("Take less: {error}.");
                Self::invalid(vec![Violation::new("/credits", detail)])
            }
            OperatorError::TooMany(error) => {
                Self::invalid(vec![Violation::new("/credits", sentence(&error))])
            }
            OperatorError::KeyReused => Self::from(Code::IdempotencyKeyReused),
            OperatorError::NoTenant => Self::new(Code::NotFound, "There is no such tenant."),
            OperatorError::Bucket(error) => error.into(),
            OperatorError::Settlement(error) => error.into(),
            OperatorError::Database(error) => error.into(),
        }
    }
}

impl From<SettlementError> for Problem {
    fn from(error: SettlementError) -> Self {
        match error {
            SettlementError::Database(error) => error.into(),
            error => {
                tracing::error!(%error, "A settlement could not be made");
                Self::from(Code::Internal)
            }
        }
    }
}

impl From<NotOffered> for Problem {
    fn from(error: NotOffered) -> Self {
        match error {
            NotOffered::Violations(violations) => Self::invalid(violations),
            NotOffered::UnknownModel(id) => {
                let error = NotOffered::UnknownModel(truncate(&id).into_owned());
                Self::new(Code::UnknownModel, sentence(&error))
            }
            NotOffered::ShutDown { ref successor, .. } => {
                let successor = successor.clone();
                Self::new(Code::ModelShutDown, sentence(&error)).with("successor", successor)
            }
        }
    }
}

impl From<BucketError> for Problem {
    fn from(error: BucketError) -> Self {
        tracing::error!(%error, "The bucket failed");
        Self::from(Code::Unavailable)
    }
}

/// What is wrong with a picture that a client sent, and what to do about it.
pub fn picture_refused(error: &ImagingError) -> String {
    let what = sentence(error);
    match error {
        ImagingError::Unreadable { .. } => {
            format!("{what} Send the whole file again, or save the picture anew.")
        }
        _ => what,
    }
}

/// An error's text as a sentence, with one full stop.
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
    fn the_documentation_tells_the_same_table() {
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
    fn trouble_that_passes_may_be_repeated_and_says_when() {
        let problem = Problem::from(sqlx::Error::PoolTimedOut);
        assert_eq!(problem.code(), Code::Unavailable);
        assert_eq!(problem.into_response().headers()[header::RETRY_AFTER], "2");
        assert_eq!(
            Problem::from(sqlx::Error::RowNotFound).code(),
            Code::Internal
        );
    }

    #[test]
    fn one_violation_is_the_detail() {
        let body =
            Problem::invalid(vec![Violation::new("/size", "too large")]).body("req_1", "/v1/jobs");
        assert_eq!(body["detail"], "too large");
        assert_eq!(body["errors"][0]["pointer"], "/size");
    }
}

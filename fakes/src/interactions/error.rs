//! Errors as the Interactions API words them: a sentence and a word, no number.

use super::super::{
    google::{Host, retry_info, whole_seconds},
    reply::Reply,
};
use serde_json::json;
use std::time::Duration;

/// An error with this HTTP status, word and sentence.
pub(super) fn error(status: u16, code: &str, message: impl Into<String>) -> Reply {
    Reply::refused(
        status,
        &json!({"error": {"message": message.into(), "code": code}}),
    )
}

/// 400, with the sentence that says what is wrong.
pub(super) fn invalid(message: impl Into<String>) -> Reply {
    error(400, "invalid_request", message)
}

/// 404 for an interaction that is not there.
pub(super) fn no_such_interaction() -> Reply {
    error(404, "not_found", "Requested entity was not found.")
}

/// 404 for a model that is not there.
pub(super) fn no_such_model(model: &str) -> Reply {
    error(404, "not_found", format!("Model '{model}' not found."))
}

/// 429 as captured from a key without any quota; it says no more than this.
pub(super) fn no_quota() -> Reply {
    let message = "You do not have enough quota to make this request.";
    error(429, "too_many_requests", message)
}

/// The error that goes with an HTTP status.
pub(super) fn of_status(host: Host, status: u16, hint: Option<Duration>) -> Reply {
    match status {
        // The front end looks at credentials, and it speaks as it does before every interface.
        401 | 403 => host.of_status(status, "", None).into_list(),
        404 => no_such_interaction(),
        429 => match hint {
            None => error(429, "too_many_requests", "Rate limit exceeded."),
            Some(wait) => Reply::refused(
                429,
                &json!({"error": {
                    "message": "Rate limit exceeded.",
                    "code": "too_many_requests",
                    "details": [retry_info(wait)],
                }}),
            )
            .with("retry-after", &whole_seconds(wait).to_string()),
        },
        400 => invalid("Request contains an invalid argument."),
        499 => error(499, "cancelled", "The operation was cancelled."),
        500 => error(500, "internal", "An internal error occurred."),
        503 => error(503, "unavailable", "The service is currently unavailable."),
        408 | 504 => error(
            status,
            "deadline_exceeded",
            "Deadline expired before operation could complete.",
        ),
        _ => error(status, "unknown", "Unknown error."),
    }
}

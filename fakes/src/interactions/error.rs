//! The errors of the Interactions API. They have a sentence and a code word, but no number.

use super::super::{
    google::{Host, retry_info},
    reply::{Reply, whole_seconds},
};
use serde_json::json;
use std::time::Duration;

/// An error with this HTTP status, code and sentence.
pub(super) fn error(status: u16, code: &str, message: impl Into<String>) -> Reply {
    Reply::refused(
        status,
        &json!({"error": {"message": message.into(), "code": code}}),
    )
}

/// 400 with a sentence that says what is wrong.
pub(super) fn invalid(message: impl Into<String>) -> Reply {
    error(400, "invalid_request", message)
}

/// 404 for an unknown interaction.
pub(super) fn no_such_interaction() -> Reply {
    error(404, "not_found", "Requested entity was not found.")
}

/// 404 for an unknown model.
pub(super) fn no_such_model(model: &str) -> Reply {
    error(404, "not_found", format!("Model '{model}' not found."))
}

/// 429 as recorded with an API key without any quota. It has no retry hint.
pub(super) fn no_quota() -> Reply {
    let message = "You do not have enough quota to make this request.";
    error(429, "too_many_requests", message)
}

/// The error that goes with an HTTP status.
pub(super) fn status_error(host: Host, status: u16, retry_after: Option<Duration>) -> Reply {
    match status {
        // Google's front end checks credentials. Its errors have the same format for all APIs.
        401 | 403 => host.status_error(status, "", None).into_list(),
        404 => no_such_interaction(),
        429 => match retry_after {
            None => error(429, "too_many_requests", "Rate limit exceeded."),
            Some(wait) => Reply::refused(
                429,
                &json!({"error": {
                    "message": "Rate limit exceeded.",
                    "code": "too_many_requests",
                    "details": [retry_info(wait)],
                }}),
            )
            .with_header("retry-after", &whole_seconds(wait).to_string()),
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

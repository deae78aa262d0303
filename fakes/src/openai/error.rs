//! The errors of `OpenAI`, in its own words.

use super::super::reply::{Reply, whole_seconds};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a 429 asks to wait by default.
const WAIT: Duration = Duration::from_secs(1);

/// An error, with the fields of `OpenAI`'s error object.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    status: u16,
    /// The `type` of the error.
    kind: &'static str,
    code: Option<String>,
    /// The field that the error is about.
    param: Option<String>,
    message: String,
    /// How long a 429 asks to wait.
    wait: Option<Duration>,
}

impl ApiError {
    /// 400 with a sentence that says what is wrong, and the field it is about.
    pub(super) fn invalid(param: Option<&str>, code: &str, message: impl Into<String>) -> Self {
        Self {
            param: param.map(ToOwned::to_owned),
            ..Self::new(400, "invalid_request_error", code, message)
        }
    }

    /// 400 from the image model.
    pub(super) fn user_error(param: Option<&str>, code: &str, message: impl Into<String>) -> Self {
        Self {
            kind: "image_generation_user_error",
            ..Self::invalid(param, code, message)
        }
    }

    /// 401 for a request without a key.
    pub(super) fn no_key() -> Self {
        let message = "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY). You can obtain an API key from https://platform.openai.com/account/api-keys.";
        Self::new(401, "invalid_request_error", "invalid_api_key", message)
    }

    /// 404 for an unknown model.
    pub(super) fn no_such_model(model: &str) -> Self {
        let message =
            format!("The model `{model}` does not exist or you do not have access to it.");
        Self::new(404, "invalid_request_error", "model_not_found", message)
    }

    /// The usual error with an HTTP status.
    pub(super) fn from_status(status: u16, model: &str, retry_after: Option<Duration>) -> Self {
        match status {
            401 => Self::from_code("invalid_api_key", model, ""),
            403 => Self {
                code: None,
                ..Self::new(
                    403,
                    "permission_error",
                    "",
                    "You do not have access to this resource.",
                )
            },
            404 => Self::no_such_model(model),
            429 => Self {
                wait: Some(retry_after.unwrap_or(WAIT)),
                ..Self::new(
                    429,
                    "requests",
                    "rate_limit_exceeded",
                    format!(
                        "Rate limit reached for {model} in organization org-fake on images per min (IPM): Limit 5, Used 5, Requested 1. Please try again in {}s. Visit https://platform.openai.com/account/rate-limits to learn more.",
                        retry_after.unwrap_or(WAIT).as_secs_f64()
                    ),
                )
            },
            503 => Self {
                code: None,
                ..Self::new(
                    503,
                    "service_unavailable_error",
                    "",
                    "The server is currently overloaded with other requests. Sorry about that! You can retry your request, or contact us through our help center at help.openai.com if the error persists.",
                )
            },
            500.. => Self {
                status,
                ..Self::from_code("server_error", model, "")
            },
            _ => Self {
                code: None,
                ..Self::new(
                    status,
                    "invalid_request_error",
                    "",
                    "Your request could not be processed.",
                )
            },
        }
    }

    /// The error with a code, and with the status that usually comes with this code.
    pub(super) fn from_code(code: &str, model: &str, request_id: &str) -> Self {
        match code {
            "moderation_blocked" => Self::user_error(
                None,
                code,
                format!(
                    "Your request was rejected by the safety system. If you believe this is an error, contact us at help.openai.com and include the request ID {request_id}. safety_violations=[violence]."
                ),
            ),
            "content_policy_violation" => Self::invalid(
                None,
                code,
                "Your request was rejected as a result of our safety system. Your prompt may contain text that is not allowed by our safety system.",
            ),
            "insufficient_quota" => Self::new(
                429,
                "insufficient_quota",
                code,
                "You exceeded your current quota, please check your plan and billing details. For more information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
            ),
            "billing_hard_limit_reached" => {
                Self::invalid(None, code, "Billing hard limit has been reached.")
            }
            "rate_limit_exceeded" => Self::from_status(429, model, None),
            "model_not_found" => Self::no_such_model(model),
            "invalid_api_key" => Self::new(
                401,
                "invalid_request_error",
                code,
                "Incorrect API key provided: sk-fake********************0000. You can find your API key at https://platform.openai.com/account/api-keys.",
            ),
            "server_error" => Self::new(
                500,
                "server_error",
                code,
                "The server had an error while processing your request. Sorry about that! You can retry your request, or contact us through our help center at help.openai.com if the error persists.",
            ),
            _ => Self::invalid(None, code, "Your request could not be processed."),
        }
    }

    pub(super) fn to_reply(&self) -> Reply {
        let reply = Reply::refused(self.status, &self.body());
        let Some(wait) = self.wait else {
            return reply;
        };
        reply
            .with_header("retry-after", &whole_seconds(wait).to_string())
            .with_header("x-ratelimit-limit-requests", "5")
            .with_header("x-ratelimit-remaining-requests", "0")
            .with_header(
                "x-ratelimit-reset-requests",
                &format!("{}s", wait.as_secs_f64()),
            )
    }

    /// The error with status 200, as some gateways send it.
    pub(super) fn to_reply_with_status_200(&self) -> Reply {
        let mut body = self.body();
        body["data"] = Value::Null;
        Reply::refused(200, &body)
    }

    /// The error with a message of 100 KiB that begins with control characters. Its code comes after the message.
    pub(super) fn to_long_reply(&self) -> Reply {
        let message = format!(
            "\u{202E}\u{7}{}\n{}",
            self.message,
            "And so on. ".repeat(10_000)
        );
        let (message, kind, code) = (json!(message), json!(self.kind), json!(self.code));
        let body = format!(
            r#"{{"error": {{"message": {message}, "type": {kind}, "param": null, "code": {code}}}}}"#
        );
        Reply::raw_json(self.status, body).with_outcome("refused_request")
    }

    fn body(&self) -> Value {
        let Self {
            kind,
            code,
            param,
            message,
            ..
        } = self;
        json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
    }

    fn new(status: u16, kind: &'static str, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code: Some(code.to_owned()),
            param: None,
            message: message.into(),
            wait: None,
        }
    }
}

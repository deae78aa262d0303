//! The common parts of Google's APIs: hosts, credentials, errors, models.

mod captions;
mod catalog;

pub(super) use captions::{Piece, read_captions};
pub(super) use catalog::Model;

use super::{
    call::bearer,
    reply::{Reply, whole_seconds},
};
use axum::http::HeaderMap;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// How many input images one request may have.
pub(super) const MAX_INPUTS: usize = 14;
/// How many bytes one inline image may have.
const MAX_INPUT_BYTES: usize = 7 * 1024 * 1024;
/// The thought tokens of every reply of a model that thinks.
pub(super) const THOUGHT_TOKENS: u32 = 240;
/// How long a 429 of the Developer API asks to wait by default.
const WAIT: Duration = Duration::from_secs(1);

/// The two hosts of Google's models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// Vertex AI: projects, access tokens, and no `Retry-After`.
    Vertex,
    /// The Gemini Developer API: API keys and quotas.
    Gemini,
}

impl Host {
    /// Checks that the credentials are of the kind that this host takes. Any value is accepted.
    pub(super) fn authorize(self, headers: &HeaderMap) -> Result<(), ApiError> {
        let key = (headers.get("x-goog-api-key")).is_some_and(|key| !key.is_empty());
        match self {
            Self::Vertex if bearer(headers).is_some() => Ok(()),
            Self::Vertex if key => Err(ApiError::new(
                401,
                "API keys are not supported by this API. Expected OAuth2 access token or other authentication credentials that assert a principal. See https://cloud.google.com/docs/authentication",
            )),
            Self::Vertex => Err(ApiError::new(
                401,
                "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
            )),
            Self::Gemini if key => Ok(()),
            Self::Gemini => Err(ApiError::new(
                403,
                "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other form of API consumer identity to call this API.",
            )),
        }
    }

    /// The error that this host sends with an HTTP status. `resource` names the model: `projects/…/models/…` or
    /// `models/…`.
    pub(super) fn status_error(
        self,
        code: u16,
        resource: &str,
        retry_after: Option<Duration>,
    ) -> ApiError {
        let message = match (code, self) {
            (400, _) => "Request contains an invalid argument.".to_owned(),
            (401, _) => "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.".to_owned(),
            (403, Self::Vertex) => format!("Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/{resource}' (or it may not exist)."),
            (403, Self::Gemini) => "The caller does not have permission".to_owned(),
            (404, Self::Vertex) => format!("Publisher model '{resource}' was not found or your project does not have access to it. Please ensure you are using a valid model version. For more information, see: https://cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versions"),
            (404, Self::Gemini) => format!("{resource} is not found for API version v1beta, or is not supported for generateContent. Call ListModels to see the list of available models and their supported methods."),
            (429, Self::Vertex) => "Resource exhausted. Please try again later. Please refer to https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details.".to_owned(),
            (429, Self::Gemini) => return ApiError::over_quota("Minute", 10, resource, Some(retry_after.unwrap_or(WAIT))),
            (499, _) => "The operation was cancelled.".to_owned(),
            (500, _) => "Internal error encountered.".to_owned(),
            (503, Self::Vertex) => "The service is currently unavailable.".to_owned(),
            (503, Self::Gemini) => "The model is overloaded. Please try again later.".to_owned(),
            (408 | 504, _) => "Deadline expired before operation could complete.".to_owned(),
            _ => "Unknown error.".to_owned(),
        };
        ApiError {
            retry_after,
            ..ApiError::new(code, message)
        }
    }
}

/// An error in the shape of `google.rpc.Status`.
#[derive(Debug)]
pub(super) struct ApiError {
    code: u16,
    status: &'static str,
    message: String,
    details: Vec<Value>,
    /// The `Retry-After` header. Vertex AI sends none, but a fault may ask for it. The Developer API has its retry hint
    /// in `details` instead.
    retry_after: Option<Duration>,
}

impl ApiError {
    /// An error with the `google.rpc.Code` that belongs to an HTTP status.
    pub(super) fn new(code: u16, message: impl Into<String>) -> Self {
        let status = match code {
            400 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            429 => "RESOURCE_EXHAUSTED",
            499 => "CANCELLED",
            500 => "INTERNAL",
            503 => "UNAVAILABLE",
            408 | 504 => "DEADLINE_EXCEEDED",
            _ => "UNKNOWN",
        };
        Self {
            code,
            status,
            message: message.into(),
            details: Vec::new(),
            retry_after: None,
        }
    }

    /// 400 with a sentence that says what is wrong.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// 400 because of a state of the system, and not because of the request.
    pub(super) fn failed_precondition() -> Self {
        Self {
            status: "FAILED_PRECONDITION",
            ..Self::new(400, "Precondition check failed.")
        }
    }

    /// 429 for a daily quota of zero. Waiting does not help, although the reply has a retry hint.
    pub(super) fn no_quota(resource: &str) -> Self {
        Self::over_quota("Day", 0, resource, Some(WAIT))
    }

    /// 429 that names the quota that is used up: `limit` requests in a `span`, which is `Minute` or `Day`. `resource`
    /// names the model.
    fn over_quota(span: &str, limit: u32, resource: &str, wait: Option<Duration>) -> Self {
        const METRIC: &str =
            "generativelanguage.googleapis.com/generate_content_free_tier_requests";
        let model = resource.rsplit('/').next().unwrap_or(resource);
        let mut message = format!(
            "You exceeded your current quota, please check your plan and billing details. For more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.\n* Quota exceeded for metric: {METRIC}, limit: {limit}, model: {model}"
        );
        let mut violation = json!({
            "quotaMetric": METRIC,
            "quotaId": format!("GenerateRequestsPer{span}PerProjectPerModel-FreeTier"),
            "quotaDimensions": {"location": "global", "model": model},
        });
        // The JSON form of Protocol Buffers leaves out a number that is 0.
        if limit > 0 {
            violation["quotaValue"] = limit.to_string().into();
        }
        let mut details = vec![
            json!({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}),
            json!({"@type": "type.googleapis.com/google.rpc.Help", "links": [{"description": "Learn more about Gemini API quotas", "url": "https://ai.google.dev/gemini-api/docs/rate-limits"}]}),
        ];
        if let Some(wait) = wait {
            message = format!("{message}\nPlease retry in {}s.", wait.as_secs_f64());
            details.push(retry_info(wait));
        }
        Self {
            details,
            ..Self::new(429, message)
        }
    }

    pub(super) fn body(&self) -> Value {
        let Self {
            code,
            status,
            message,
            details,
            ..
        } = self;
        let mut error = json!({"code": code, "message": message, "status": status});
        if !details.is_empty() {
            error["details"] = details.clone().into();
        }
        json!({"error": error})
    }

    pub(super) fn into_reply(self) -> Reply {
        let reply = Reply::refused(self.code, &self.body());
        match self.retry_after {
            Some(wait) => reply.with_header("retry-after", &whole_seconds(wait).to_string()),
            None => reply,
        }
    }

    /// The error in a list, as Google's front end sends it.
    pub(super) fn into_list(self) -> Reply {
        Reply::refused(self.code, &json!([self.body()]))
    }
}

/// `google.rpc.RetryInfo`.
pub(super) fn retry_info(wait: Duration) -> Value {
    json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{}s", wait.as_secs_f64())})
}

/// Checks the labels of a request. The error says what is wrong.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    let fits = |text: &str| {
        text.len() <= 63
            && text
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
    };
    for (key, value) in labels {
        if !(key.starts_with(|first: char| first.is_ascii_lowercase()) && fits(key)) {
            return Err(format!("Invalid label key: {key}."));
        }
        if !fits(value) {
            return Err(format!("Invalid label value: {value}."));
        }
    }
    Ok(())
}

/// Decodes an input image of a request. The error says what is wrong.
pub(super) fn decode_input(mime_type: &str, bytes: &[u8]) -> Result<DynamicImage, String> {
    let format = match mime_type {
        "image/png" => Some(ImageFormat::Png),
        "image/jpeg" => Some(ImageFormat::Jpeg),
        "image/webp" => Some(ImageFormat::WebP),
        // Google reads these formats. The fake cannot read them, so it draws a gray card without looking at the bytes.
        "image/heic" | "image/heif" => None,
        other => {
            return Err(format!(
                "Unable to submit request because it has a mimeType parameter with value {other}, which is not supported."
            ));
        }
    };
    if bytes.len() > MAX_INPUT_BYTES {
        return Err(format!(
            "The inline data of {} bytes exceeds the limit of {MAX_INPUT_BYTES} bytes.",
            bytes.len()
        ));
    }
    match format {
        Some(format) => image::load_from_memory_with_format(bytes, format)
            .map_err(|_| "Provided image is not valid.".to_owned()),
        None => Ok(RgbImage::from_pixel(96, 96, Rgb([150; 3])).into()),
    }
}

/// The tokens of texts, by Google's rule of thumb: four characters for each token.
pub(super) fn text_tokens<'a>(texts: impl Iterator<Item = &'a str>) -> u32 {
    let characters: usize = texts.map(|text| text.chars().count()).sum();
    u32::try_from(characters.div_ceil(4)).unwrap_or(u32::MAX)
}

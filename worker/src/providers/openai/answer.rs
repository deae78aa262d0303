//! Parses answers of OpenAI images. The result says where the image is, or which failure there was.

use bytes::Bytes;
use domain::outcome::Failure;
use domain::outcome::table::{self, Dialect};
use reqwest::StatusCode;
use serde_json::Value;

use super::wire::{Error, Image, Images, ZeroOrMore};
use crate::providers::http::{ExtractedBody, Received, describe_parse_error, describe_status};

pub(super) const DIALECT: Dialect = Dialect::Openai;

/// Where an image is.
#[derive(Debug)]
pub(super) enum ImageSource {
    /// In the answer.
    Inline(Bytes),
    /// At this URL.
    Url(String),
}

/// What a successful answer holds.
pub(super) struct ParsedAnswer {
    /// Where the image is, or the reason why there is none.
    pub image: Result<ImageSource, Failure>,
    /// What the provider metered.
    pub usage: Option<Value>,
}

/// Parses an answer whose HTTP status is a success. Some servers report errors with such a status,
/// too.
pub(super) fn parse(body: &ExtractedBody) -> ParsedAnswer {
    let answers = match body.read::<ZeroOrMore<Images>>() {
        Ok(ZeroOrMore(answers)) => answers,
        Err(error) => {
            return ParsedAnswer {
                image: Err(failure("not_json", describe_parse_error(&error))),
                usage: None,
            };
        }
    };
    let mut first_failure = None;
    let mut usage = None;
    for mut images in answers {
        usage = usage.or_else(|| images.usage.take());
        for image in images.into_images() {
            match image.source(body) {
                Some(Ok(source)) => {
                    return ParsedAnswer {
                        image: Ok(source),
                        usage,
                    };
                }
                Some(Err(failure)) => first_failure = first_failure.or(Some(failure)),
                None => {}
            }
        }
    }
    let failure = first_failure.unwrap_or_else(|| {
        let error = body.read().ok().and_then(|value| Error::parse(&value));
        match error {
            Some(error) => classify_error(StatusCode::OK, &error),
            None => failure("empty", "an answer without an image".to_owned()),
        }
    });
    ParsedAnswer {
        image: Err(failure),
        usage,
    }
}

impl Image {
    /// Where the image is. Returns `None` if this entry has no image. An image in the answer is
    /// preferred to an image that would have to be downloaded.
    fn source(self, body: &ExtractedBody) -> Option<Result<ImageSource, Failure>> {
        let mut inline_failure = None;
        if let Some(data) = self.b64_json.filter(|data| !data.is_empty()) {
            match body.image(DIALECT, &data) {
                Ok(image) => return Some(Ok(ImageSource::Inline(image))),
                Err(failure) => inline_failure = Some(Err(failure)),
            }
        }
        let url = self.url.filter(|url| !url.is_empty());
        let from_url = url.map(|url| match body.image_in_url(DIALECT, &url) {
            Some(image) => image.map(ImageSource::Inline),
            None => Ok(ImageSource::Url(url)),
        });
        from_url.or(inline_failure)
    }
}

/// Classifies an answer whose HTTP status is not a success.
pub(super) fn http_failure(received: &Received) -> Failure {
    let error = received.body.read().ok();
    let error = error.and_then(|value| Error::parse(&value));
    let mut failure = classify_error(received.status, &error.unwrap_or_default());
    failure.retry_after = received.retry_after();
    failure
}

/// Classifies an error that the provider returned. A code that the outcome table knows is more
/// exact than the HTTP status. If the table knows no code and the HTTP status is a success, the
/// status that usually comes with the code decides.
fn classify_error(status: StatusCode, error: &Error) -> Failure {
    let mut signals = error.codes.iter().map(|code| format!("error:{code}"));
    let known = signals.find(|signal| table::names(DIALECT, signal));
    let status_code = if status.is_success() {
        error.usual_status()
    } else {
        Some(status.as_u16())
    };
    let answer_signal = known.or_else(|| Some(format!("status:{}", status_code?)));
    // Neither the codes nor the status say what kind of error it is.
    let answer_signal = answer_signal.unwrap_or_else(|| "error".to_owned());
    let codes = error.codes.join(", ");
    let message = Some(error.message.as_str()).filter(|message| !message.trim().is_empty());
    let detail = describe_status(status, message.unwrap_or(&codes));
    failure(&answer_signal, detail).with_provider_message(message)
}

/// The failure that the outcome table has for an answer signal.
pub(super) fn failure(answer_signal: &str, detail: String) -> Failure {
    Failure::new(table::class(DIALECT, answer_signal), detail)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use domain::outcome::Class;
    use reqwest::header::{HeaderMap, RETRY_AFTER};
    use serde_json::json;

    use super::*;

    fn refusal(status: u16, body: &Value) -> Failure {
        http_failure(&Received {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::from_iter([(RETRY_AFTER, "7".parse().unwrap())]),
            body: ExtractedBody::from_text(body.to_string()),
        })
    }

    fn found(answer: &str) -> Result<String, Failure> {
        match parse(&ExtractedBody::from_text(answer)).image? {
            ImageSource::Inline(bytes) => Ok(String::from_utf8(bytes.to_vec()).unwrap()),
            ImageSource::Url(url) => Ok(url),
        }
    }

    #[test]
    fn an_image_is_in_the_answer_or_at_an_address() {
        for (answer, expected) in [
            (json!({"data": [{"b64_json": "b25l"}]}), Ok("one")),
            (
                json!({"data": [{"url": "/a.png", "b64_json": null}]}),
                Ok("/a.png"),
            ),
            (
                json!({"data": [{"url": "/a.png", "b64_json": ""}]}),
                Ok("/a.png"),
            ),
            (
                json!({"data": [{"url": "", "b64_json": "b25l"}]}),
                Ok("one"),
            ),
            (
                json!({"data": [{"url": "/a.png", "b64_json": "???"}]}),
                Ok("/a.png"),
            ),
            (
                json!({"data": [{}, {"b64_json": "dHdv", "url": null}]}),
                Ok("two"),
            ),
            (
                json!({"data": [{"b64_json": "???"}, {"b64_json": "dHdv"}]}),
                Ok("two"),
            ),
            (
                json!({"data": [{"b64_json": "data:image/png;base64,b25l"}]}),
                Ok("one"),
            ),
            (
                json!({"data": [{"url": "data:image/png;base64,b25l"}]}),
                Ok("one"),
            ),
            (json!({"data": [{"b64_json": "b2\r\n 5l\n"}]}), Ok("one")),
            (json!({"data": [{"b64_json": "Pz8_Pj4-"}]}), Ok("???>>>")),
            (json!({"data": [{"b64_json": "b25lMQ"}]}), Ok("one1")),
            (json!({"data": {"b64_json": "b25l"}}), Ok("one")),
            (json!({"data": {"url": "/a.png"}}), Ok("/a.png")),
            (json!([{"data": [{"b64_json": "b25l"}]}]), Ok("one")),
            (json!([{"b64_json": "b25l"}]), Ok("one")),
            (
                json!({"data": [{"b64_json": "b25l"}], "error": null}),
                Ok("one"),
            ),
            (
                json!({"data": [{"b64_json": "???"}]}),
                Err(Class::ProviderInvalid),
            ),
            (
                json!({"data": [{"url": "data:text/plain,one"}]}),
                Err(Class::ProviderInvalid),
            ),
            (json!({"data": [{}]}), Err(Class::NoOutput)),
            (
                json!({"data": [{"b64_json": "", "url": ""}]}),
                Err(Class::NoOutput),
            ),
            (json!({"data": [null]}), Err(Class::NoOutput)),
            (json!({"data": []}), Err(Class::NoOutput)),
            (json!({"data": null}), Err(Class::NoOutput)),
            (json!({}), Err(Class::NoOutput)),
            (json!([]), Err(Class::NoOutput)),
            (
                json!({"data": [], "object": "list", "type": "images"}),
                Err(Class::NoOutput),
            ),
            (json!("no object"), Err(Class::ProviderInvalid)),
        ] {
            for text in [
                answer.to_string(),
                format!("\u{FEFF}{answer}"),
                format!("{answer}\n\n<!-- -->"),
            ] {
                let found = found(&text).map_err(|failure| failure.class);
                assert_eq!(found, expected.map(str::to_owned), "{text}");
            }
        }
    }

    #[test]
    fn an_error_with_http_200_is_classified_by_its_code() {
        let error = |code: &str| json!({"error": {"message": "No.", "type": "x", "code": code}});
        for (answer, class) in [
            (error("content_policy_violation"), Class::RefusedPrompt),
            (error("moderation_blocked"), Class::RefusedPrompt),
            (
                json!({"data": null, "error": {"code": "content_policy_violation", "message": "No."}}),
                Class::RefusedPrompt,
            ),
            (
                json!({"data": [], "error": {"type": "content_policy_violation", "message": "No."}}),
                Class::RefusedPrompt,
            ),
            (
                json!([error("content_policy_violation")]),
                Class::RefusedPrompt,
            ),
            (
                json!({"code": "content_policy_violation", "message": "No."}),
                Class::RefusedPrompt,
            ),
            (
                json!({"code": "content_policy_violation", "error": "No."}),
                Class::RefusedPrompt,
            ),
            (error("insufficient_quota"), Class::Config),
            (error("invalid_api_key"), Class::Config),
            (error("model_not_found"), Class::ModelRetired),
            (error("rate_limit_exceeded"), Class::Throttled),
            (error("server_error"), Class::ProviderFault),
            (
                json!({"error": {"message": "No.", "type": "invalid_request_error", "code": null}}),
                Class::BadRequest,
            ),
            (
                json!({"object": "error", "message": "No.", "type": "BadRequestError", "code": 400}),
                Class::BadRequest,
            ),
            (
                json!({"object": "error", "message": "No.", "code": 503}),
                Class::ProviderFault,
            ),
            (error("tomorrow"), Class::Unrecognized),
            (json!({"error": "No."}), Class::Unrecognized),
            (json!({"detail": "No."}), Class::Unrecognized),
            (
                json!({"detail": [{"loc": ["body", "size"], "msg": "No.", "type": "value_error"}]}),
                Class::Unrecognized,
            ),
            (json!({"message": "No."}), Class::Unrecognized),
        ] {
            let failure = found(&answer.to_string()).unwrap_err();
            assert_eq!(
                (failure.class, failure.detail.as_str()),
                (class, "HTTP 200: No."),
                "{answer}"
            );
            if class == Class::RefusedPrompt {
                assert!(failure.customer_message().ends_with("The model said: No."));
            }
        }
        let without_message = json!({"error": {"type": "server_error"}});
        assert_eq!(
            found(&without_message.to_string()).unwrap_err().detail,
            "HTTP 200: server_error"
        );
    }

    #[test]
    fn a_known_code_is_more_exact_than_the_status() {
        let error = |code: &str| json!({"error": {"message": "No.", "type": "x", "param": null, "code": code}});
        for (status, body, class) in [
            (400, error("moderation_blocked"), Class::RefusedPrompt),
            (400, error("content_policy_violation"), Class::RefusedPrompt),
            (400, error("billing_hard_limit_reached"), Class::Config),
            (400, error("invalid_value"), Class::BadRequest),
            (401, error("invalid_api_key"), Class::Config),
            (404, error("model_not_found"), Class::ModelRetired),
            (429, error("insufficient_quota"), Class::Config),
            (
                429,
                json!({"error": {"type": "insufficient_quota", "code": null}}),
                Class::Config,
            ),
            (429, error("rate_limit_exceeded"), Class::Throttled),
            (
                500,
                json!({"error": {"message": "Oh.", "code": 500}}),
                Class::ProviderFault,
            ),
            (503, json!("<html>"), Class::ProviderFault),
        ] {
            assert_eq!(refusal(status, &body).class, class, "{status} {body}");
        }
    }

    #[test]
    fn errors_are_read_in_every_format_that_servers_use() {
        let refused = refusal(
            400,
            &json!({"error": {"message": "Your request was rejected.", "code": "moderation_blocked"}}),
        );
        assert!(
            refused
                .customer_message()
                .ends_with("The model said: Your request was rejected.")
        );
        for body in [
            json!({"error": {"message": "Busy."}}),
            json!({"error": "Busy."}),
            json!({"object": "error", "message": "Busy.", "code": 429}),
            json!({"detail": "Busy."}),
            json!({"detail": [{"msg": "Busy."}]}),
            json!([{"error": {"message": "Busy."}}]),
            json!({"message": "Busy.\n"}),
            json!("Busy."),
        ] {
            let busy = refusal(429, &body);
            assert_eq!(busy.detail, "HTTP 429: Busy.", "{body}");
            assert_eq!(busy.customer_message(), Class::Throttled.customer_message());
            assert_eq!(busy.retry_after, Some(Duration::from_secs(7)));
        }
    }
}

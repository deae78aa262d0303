//! Answers of Gemini Interactions: an interaction that still runs, an image, or a failure.

use bytes::Bytes;
use domain::catalog::Tokens;
use domain::outcome::table::{self, Dialect};
use domain::outcome::{Class, Failure, readable};

use super::operation::{self, MAX_ID_LENGTH};
use super::wire::{Content, Error, ErrorBody, Image, Interaction, Step, Usage};
use crate::providers::http::{ExtractedBody, Received, describe_parse_error, excerpt};
use crate::providers::{Answer, Reply, gemini, google};

pub(super) const DIALECT: Dialect = Dialect::Interactions;

/// Classifies an answer whose HTTP status is not a success. If the status means a bad request or
/// throttling, the error's code is more exact than the status. Only the message tells that a quota
/// does not renew.
pub(super) fn http_failure(received: &Received) -> Failure {
    let mut failure = google::http_failure(DIALECT, received);
    let Ok(ErrorBody { error }) = received.body.read() else {
        return failure;
    };
    let message = error.message.as_deref();
    if message.is_some_and(|message| message.contains("do not have enough quota")) {
        failure.class = table::class(DIALECT, "no_quota");
    } else if let Some(answer_signal) = error.answer_signal()
        && matches!(failure.class, Class::BadRequest | Class::Throttled)
    {
        failure.class = table::class(DIALECT, &answer_signal);
    }
    failure.with_provider_message(message)
}

/// Parses an answer whose HTTP status is a success. Its interaction still runs, or has ended.
///
/// # Errors
///
/// Returns an error if the answer is not an interaction, if the interaction has no status, or if it
/// still runs but has no id that can be polled.
pub(super) fn parse(body: &ExtractedBody) -> Result<Reply, Failure> {
    let invalid = |detail: String| Failure::new(table::class(DIALECT, "not_json"), detail);
    let interaction: Interaction =
        (body.read()).map_err(|error| invalid(describe_parse_error(&error)))?;
    let Some(status) = interaction.status.as_deref() else {
        return Err(invalid("an interaction without a status".to_owned()));
    };
    if !matches!(status, "queued" | "in_progress") {
        return Ok(Reply::Answered(convert_ended(interaction, body)));
    }
    match interaction.id {
        // Only whether the id is usable matters here, so any base URL will do.
        Some(id) if operation::url(gemini::BASE_URL, &id).is_some() => Ok(Reply::Operation(id)),
        _ => Err(invalid(
            "work in the background without a usable operation".to_owned(),
        )),
    }
}

/// Converts an interaction that has ended. It holds an image or the reason why there is none.
fn convert_ended(interaction: Interaction, body: &ExtractedBody) -> Answer {
    let usage: Usage = (interaction.usage.as_ref())
        .and_then(|usage| serde::Deserialize::deserialize(usage).ok())
        .unwrap_or_default();
    Answer {
        image: image(&interaction, body),
        provider_request_id: interaction.id.map(|id| readable(&id, MAX_ID_LENGTH)),
        usage: interaction.usage,
        tokens: Tokens {
            input: usage.total_input_tokens.max(0),
            thought: usage.total_thought_tokens.max(0),
        },
    }
}

/// The image of an interaction that has ended, or its failure.
fn image(interaction: &Interaction, body: &ExtractedBody) -> Result<Bytes, Failure> {
    let failure = |answer_signal: &str, detail: String| {
        Failure::new(table::class(DIALECT, answer_signal), detail)
    };
    let status = interaction.status.as_deref().unwrap_or_default();
    // An interaction that was cut short may hold a complete image. The image was paid for, so it is
    // used. An image of a failed or canceled interaction is not used.
    let may_have_image = matches!(
        status,
        "completed" | "incomplete" | "budget_exceeded" | "requires_continuation"
    );
    match interaction.image() {
        Some(Image {
            data: Some(data), ..
        }) if may_have_image && !data.is_empty() => body.image(DIALECT, data),
        Some(image) if may_have_image => {
            let url = image.uri.as_deref().unwrap_or_default();
            body.image_in_url(DIALECT, url).unwrap_or_else(|| {
                let detail =
                    "the image is at a URL, although it was requested in the answer itself";
                Err(failure("elsewhere", detail.to_owned()))
            })
        }
        _ => {
            let known = interaction
                .errors()
                .find(|error| error.answer_signal().is_some());
            let error = known.or_else(|| interaction.errors().next());
            let answer_signal =
                error
                    .and_then(Error::answer_signal)
                    .unwrap_or_else(|| match status {
                        "completed" if interaction.has_text() => "text_only".to_owned(),
                        "completed" => "empty".to_owned(),
                        status => format!("interaction:{status}"),
                    });
            let message = error.and_then(|error| error.message.as_deref());
            let detail = format!(
                "ended as {}, without an image: {}",
                excerpt(status),
                excerpt(message.unwrap_or(&answer_signal))
            );
            Err(failure(&answer_signal, detail).with_provider_message(message))
        }
    }
}

impl Interaction {
    /// The steps after the last input, newest first.
    fn newest_steps(&self) -> impl Iterator<Item = &Step> {
        let is_input = |step: &&Step| matches!(step, Step::UserInput { .. });
        let steps = self.steps.iter().rev();
        steps.take_while(move |step| !is_input(step))
    }

    /// The last image of the output. If the output has no image, the last image of a thought.
    /// Thoughts come second, because they usually hold only drafts.
    fn image(&self) -> Option<&Image> {
        let output = self.newest_steps().find_map(|step| match step {
            Step::ModelOutput { content, .. } => last_image(content),
            _ => None,
        });
        output.or_else(|| {
            self.newest_steps().find_map(|step| match step {
                Step::Thought { summary } => last_image(summary),
                _ => None,
            })
        })
    }

    /// Whether the output has any text.
    fn has_text(&self) -> bool {
        self.newest_steps().any(|step| match step {
            Step::ModelOutput { content, .. } => content
                .iter()
                .any(|one| matches!(one, Content::Text { text } if !text.trim().is_empty())),
            _ => false,
        })
    }

    /// All errors: first those of the interaction, then those of its newest steps.
    fn errors(&self) -> impl Iterator<Item = &Error> {
        let of_steps = self.newest_steps().filter_map(|step| match step {
            Step::ModelOutput { error, .. } => error.as_ref(),
            _ => None,
        });
        self.errors.iter().chain(of_steps)
    }
}

fn last_image(content: &[Content]) -> Option<&Image> {
    content.iter().rev().find_map(|one| match one {
        Content::Image(image) => Some(image),
        Content::Text { .. } | Content::Other => None,
    })
}

impl Error {
    /// The answer signal of this error, if the outcome table knows it. The code may come at the end
    /// of a URL. Some filters send a sentence in place of the code. Their messages begin with
    /// "input blocked" or "request blocked".
    fn answer_signal(&self) -> Option<String> {
        let code = self
            .code
            .as_str()
            .and_then(|code| code.rsplit(['/', '#', ':']).next());
        let by_code = code.map(|code| format!("error:{}", code.to_ascii_lowercase()));
        if let Some(by_code) = by_code.filter(|signal| table::names(DIALECT, signal)) {
            return Some(by_code);
        }
        let message = self.message.as_deref()?.to_ascii_lowercase();
        let by_message = if message.starts_with("input blocked") {
            "error:content_blocked"
        } else if !message.starts_with("request blocked") {
            return None;
        } else if message.contains("copyright") || message.contains("recitation") {
            "error:recitation"
        } else {
            "error:safety"
        };
        Some(by_message.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use serde_json::{Value, json};

    use super::*;

    fn parse_ended(interaction: &Value) -> Answer {
        match parse(&ExtractedBody::from_text(interaction.to_string())).unwrap() {
            Reply::Answered(answer) => answer,
            Reply::Operation(operation) => panic!("{operation} still runs"),
        }
    }

    fn image_json(data: &str) -> Value {
        json!({"type": "image", "mime_type": "image/jpeg", "data": data})
    }

    fn failed(code: &str, message: &str) -> Value {
        json!({"id": "v1_a", "status": "failed", "errors": [{"code": code, "message": message}],
            "steps": [{"type": "model_output", "error": {"code": 3, "message": message}}]})
    }

    fn refusal(status: u16, body: &Value) -> Failure {
        http_failure(&Received {
            status: StatusCode::from_u16(status).unwrap(),
            headers: reqwest::header::HeaderMap::new(),
            body: ExtractedBody::from_text(body.to_string()),
        })
    }

    #[test]
    fn a_running_interaction_has_an_operation() {
        for status in ["queued", "in_progress"] {
            let reply = json!({"id": "v1_a-b.c", "status": status}).to_string();
            let Reply::Operation(operation) = parse(&ExtractedBody::from_text(reply)).unwrap()
            else {
                panic!("{status} is no end")
            };
            assert_eq!(operation, "v1_a-b.c");
        }
        for unusable in [
            json!({"status": "queued"}),
            json!({"id": "", "status": "queued"}),
            json!({"id": "..", "status": "queued"}),
            json!({"id": "x".repeat(501), "status": "queued"}),
            json!({"id": "x"}),
            json!([]),
        ] {
            let failure = parse(&ExtractedBody::from_text(unusable.to_string())).unwrap_err();
            assert_eq!(failure.class, Class::ProviderInvalid, "{unusable}");
        }
    }

    #[test]
    fn the_last_image_that_is_no_thought_is_taken() {
        let steps = json!([
            {"type": "user_input", "content": [image_json("b3Vycw==")]},
            {"type": "thought", "summary": [image_json("ZHJhZnQ=")]},
            {"type": "model_output", "content": [image_json("b25l"), {"type": "text", "text": "Better:"}, image_json("dHdv")]},
            {"type": "something_new", "content": "unheard of"},
            {"type": "thought", "signature": "x", "summary": [image_json("ZHJhZnQ=")]},
            {"type": "model_output", "content": [{"type": "hologram", "data": {}}, {"type": "text", "text": "Done."}]},
        ]);
        for status in ["completed", "incomplete"] {
            let answer = parse_ended(&json!({"id": "v1_a", "status": status, "steps": steps,
                "usage": {"total_input_tokens": 1_119, "total_thought_tokens": 240, "total_output_tokens": 1_120}}));
            assert_eq!(answer.image.unwrap(), "two");
            assert_eq!(answer.provider_request_id.as_deref(), Some("v1_a"));
            assert_eq!((answer.tokens.input, answer.tokens.thought), (1_119, 240));
            assert!(answer.usage.is_some());
        }
        let only_a_thought = json!([{"type": "thought", "summary": [image_json("ZHJhZnQ=")]}]);
        let answer = parse_ended(&json!({"status": "completed", "steps": only_a_thought}));
        assert_eq!(answer.image.unwrap(), "draft");
        // An image of a failed interaction is not used.
        let answer = parse_ended(&json!({"status": "failed", "steps": steps}));
        assert_eq!(answer.class(), Class::ProviderFault);
    }

    #[test]
    fn an_end_without_an_image_is_classified() {
        let output = |content: Value| json!({"status": "completed", "steps": [{"type": "model_output", "content": [content]}]});
        for (interaction, class) in [
            (json!({"status": "completed"}), Class::NoOutput),
            (
                output(json!({"type": "text", "text": "No."})),
                Class::NoOutput,
            ),
            (output(image_json("???")), Class::ProviderInvalid),
            (
                output(json!({"type": "image", "uri": "https://example.com/a"})),
                Class::ProviderInvalid,
            ),
            (
                output(json!({"type": "image", "data": "", "uri": "data:image/png;base64,b25l"})),
                Class::Ok,
            ),
            (
                output(json!({"type": "image", "data": ""})),
                Class::ProviderInvalid,
            ),
            (json!({"status": "cancelled"}), Class::ProviderFault),
            (
                json!({"status": "budget_exceeded", "errors": [{"code": "budget_exceeded"}]}),
                Class::Truncated,
            ),
            (
                json!({"status": "dreaming", "errors": [{"code": 7}]}),
                Class::Unrecognized,
            ),
            (
                failed("internal", "An internal error occurred."),
                Class::ProviderFault,
            ),
            (failed("image_safety", "No."), Class::Refused),
            (
                failed("https://ai.google.dev/errors#image_recitation", "No."),
                Class::RefusedCopyright,
            ),
            (
                failed("content_blocked", "Input blocked: no."),
                Class::RefusedPrompt,
            ),
            (
                failed("service_unavailable", "Later."),
                Class::ProviderFault,
            ),
            (failed("rate_limit_exceeded", "Later."), Class::Throttled),
            (failed("no_image", "None."), Class::NoOutput),
        ] {
            assert_eq!(parse_ended(&interaction).class(), class, "{interaction}");
        }
    }

    #[test]
    fn a_filter_message_without_a_code_is_classified() {
        let captured = json!({"error": {
            "message": "Request blocked due to safety violations (harmful content). Please modify your input and retry.",
            "code": "Unable to show the generated image. The image was filtered out because it violated a policy: try again.",
        }});
        let failure = refusal(400, &captured);
        assert_eq!(failure.class, Class::Refused);
        assert!(
            failure
                .customer_message()
                .ends_with("Please modify your input and retry.")
        );
        let error = &captured["error"];
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        let answer = parse_ended(&failed(&text("code"), &text("message")));
        assert_eq!(answer.class(), Class::Refused);
        let blocked = failed("", "Input blocked: The prompt could not be processed.");
        assert_eq!(parse_ended(&blocked).class(), Class::RefusedPrompt);
    }

    #[test]
    fn a_known_code_is_more_exact_than_the_status() {
        let error =
            |code: &str, message: &str| json!({"error": {"code": code, "message": message}});
        for (status, body, class) in [
            (400, error("invalid_request", "No."), Class::BadRequest),
            (400, error("prohibited_content", "No."), Class::Refused),
            (
                401,
                json!([{"error": {"code": 401, "message": "No."}}]),
                Class::Config,
            ),
            (402, error("payment_required", "Pay."), Class::Config),
            (
                404,
                error("not_found", "Model 'x' not found."),
                Class::ModelRetired,
            ),
            (
                429,
                error("too_many_requests", "Rate limit exceeded."),
                Class::Throttled,
            ),
            (429, error("quota_exceeded", "For today."), Class::Config),
            (
                429,
                error(
                    "too_many_requests",
                    "You do not have enough quota to make this request.",
                ),
                Class::Config,
            ),
            (408, error("deadline_exceeded", "Late."), Class::Unknown),
            (409, error("aborted", "Again."), Class::ProviderFault),
            (500, error("tomorrow", "?"), Class::ProviderFault),
            (503, json!("<html>"), Class::ProviderFault),
        ] {
            assert_eq!(refusal(status, &body).class, class, "{status} {body}");
        }
    }
}

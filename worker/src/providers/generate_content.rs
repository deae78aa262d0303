//! Google's `generateContent`, for Vertex AI and the Gemini Developer API: conversion of requests
//! and answers.
//!
//! A refusal is an HTTP 200 without an image, so the answer is classified by its content. Unknown
//! finish and block reasons never fail to parse: servers send more of them than the published
//! protos list.

mod wire;

use bytes::Bytes;
use domain::catalog::Tokens;
use domain::outcome::table::{self, Dialect};
use domain::outcome::{Failure, readable};

use super::google::{self, Credentials};
use super::http::{Base64, ExtractedBody, Http, Timeouts, describe_parse_error, excerpt};
use super::{Answer, CallRequest};
use wire::{
    Blob, Content, GenerateContent, GenerateContentResponse, GenerationConfig, ImageConfig,
    ImageOutputOptions, Part, ThinkingConfig, Usage,
};

/// Ids of answers are cut to this many characters before they are stored.
const MAX_ID_LENGTH: usize = 500;

/// The JSON body of a request.
#[derive(serde::Serialize)]
#[serde(transparent)]
pub struct Body(GenerateContent);

impl Body {
    /// The body for Vertex AI. It asks for a PNG, and has the job and the call as labels for the
    /// invoice.
    pub fn for_vertex(request: &CallRequest<'_>) -> Self {
        let mut body = common_body(request);
        body.generation_config.image_config.image_output_options = Some(ImageOutputOptions {
            mime_type: "image/png".to_owned(),
        });
        body.labels = [
            ("job".to_owned(), request.job.to_string()),
            ("call".to_owned(), request.call.to_string()),
        ]
        .into();
        Self(body)
    }

    /// The body for the Developer API, which refuses labels and a choice of the file type.
    pub fn for_gemini(request: &CallRequest<'_>) -> Self {
        Self(common_body(request))
    }
}

/// The fields that both services take. The others, such as the labels, stay empty and are not sent.
fn common_body(request: &CallRequest<'_>) -> GenerateContent {
    let mut parts = vec![Part::text(request.prompt)];
    for input in &request.inputs {
        parts.push(Part::text(input.caption()));
        parts.push(Part::image(Blob {
            mime_type: input.media_type.as_str().to_owned(),
            data: Base64::Sent(input.bytes.clone()),
        }));
    }
    GenerateContent {
        contents: vec![Content {
            role: Some("user".to_owned()),
            parts,
        }],
        system_instruction: request.art_direction.map(|text| Content {
            role: None,
            parts: vec![Part::text(text)],
        }),
        generation_config: GenerationConfig {
            response_modalities: vec!["IMAGE".to_owned()],
            image_config: ImageConfig {
                aspect_ratio: request.aspect_ratio.as_str().to_owned(),
                // A model with a single size refuses the field.
                image_size: (request.model.sizes.len() > 1)
                    .then(|| request.size.as_str().to_owned()),
                image_output_options: None,
            },
            thinking_config: request.thinking.map(|level| ThinkingConfig {
                thinking_level: level.to_owned(),
            }),
            candidate_count: 1,
            seed: request.seed,
        },
        labels: [].into(),
    }
}

/// Sends the body, and converts the answer.
pub(super) async fn submit(
    http: &Http,
    dialect: Dialect,
    credentials: &Credentials,
    url: &str,
    body: Body,
    request: CallRequest<'_>,
) -> Answer {
    let (timeout, permit) = request.into_timeout_and_permit();
    let post = http.post_json(url, &body, permit);
    // The input images are dropped here; only the bytes that are being sent stay in memory.
    drop(body);
    let authorized = match credentials.authorize(post).await {
        Ok(authorized) => authorized,
        Err(failure) => return Answer::failed(failure),
    };
    let timeouts = Timeouts::for_generation(timeout);
    match http.exchange(authorized, timeouts).await {
        Err(error) => Answer::failed(error.into_failure(dialect)),
        Ok(received) if !received.status.is_success() => {
            Answer::failed(google::http_failure(dialect, &received))
        }
        Ok(received) => parse_answer(dialect, &received.body),
    }
}

/// Converts a successful answer, which holds an image or the reason why there is none.
fn parse_answer(dialect: Dialect, body: &ExtractedBody) -> Answer {
    let response: GenerateContentResponse = match body.read() {
        Ok(response) => response,
        Err(error) => {
            let detail = describe_parse_error(&error);
            return Answer::failed(Failure::new(table::class(dialect, "not_json"), detail));
        }
    };
    let usage = response.usage_metadata.as_ref();
    let usage: Usage = usage
        .and_then(|usage| serde::Deserialize::deserialize(usage).ok())
        .unwrap_or_default();
    Answer {
        image: image(dialect, &response, body),
        provider_request_id: response.response_id.map(|id| readable(&id, MAX_ID_LENGTH)),
        usage: response.usage_metadata,
        tokens: Tokens {
            input: usage.prompt_token_count.max(0),
            thought: usage.thoughts_token_count.max(0),
        },
    }
}

/// The image of an answer, or the failure that the answer's finish or block reason stands for.
fn image(
    dialect: Dialect,
    response: &GenerateContentResponse,
    body: &ExtractedBody,
) -> Result<Bytes, Failure> {
    let failure = |answer_signal: &str, detail: String| {
        Failure::new(table::class(dialect, answer_signal), detail)
    };
    if let Some(feedback) = &response.prompt_feedback
        && let Some(reason) = &feedback.block_reason
    {
        let detail = format!("prompt blocked: {}", excerpt(reason));
        return Err(failure(&format!("block:{reason}"), detail)
            .with_provider_message(feedback.block_reason_message.as_deref()));
    }
    let Some(candidate) = response.candidates.first() else {
        return Err(failure("empty", "an answer without candidates".to_owned()));
    };
    let finish = candidate.finish_reason.as_deref().unwrap_or("STOP");
    let parts = candidate
        .content
        .as_ref()
        .map_or(&[][..], |content| &content.parts);
    // Drafts are marked as thoughts, so the result is the last image that is not a thought. Some
    // models mark their only image as a thought, too.
    let images = || {
        parts
            .iter()
            .rev()
            .filter_map(|part| Some((part.thought, part.inline_data.as_ref()?)))
    };
    let found = images()
        .find(|(thought, _)| !thought)
        .or_else(|| images().next());
    // MAX_TOKENS may come with a complete image. The image was paid for, so it is used.
    match found {
        Some((_, blob))
            if matches!(finish, "STOP" | "MAX_TOKENS" | "FINISH_REASON_UNSPECIFIED") =>
        {
            body.image(dialect, &blob.data)
        }
        _ => {
            // The request itself may be the cause, so the lane gets no strikes.
            let detail = format!("finished with {}, without an image", excerpt(finish));
            Err(failure(&format!("finish:{finish}"), detail)
                .of_the_request()
                .with_provider_message(candidate.finish_message.as_deref()))
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::outcome::Class;
    use serde_json::{Value, json};

    use super::*;

    fn read(reply: &Value) -> Answer {
        parse_answer(
            Dialect::Vertex,
            &ExtractedBody::from_text(reply.to_string()),
        )
    }

    fn finished(reason: &str, parts: &Value) -> Value {
        json!({"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": reason}], "usageMetadata": {}})
    }

    #[test]
    fn the_last_image_that_is_no_thought_is_taken() {
        let blob = |data: &str| json!({"mimeType": "image/png", "data": data});
        let parts = json!([
            {"text": "Considering…", "thought": true},
            {"inlineData": blob("ZHJhZnQ="), "thought": true},
            {"inlineData": blob("b25l")},
            {"inlineData": blob("dHdv"), "thoughtSignature": "x"},
        ]);
        for reason in ["STOP", "MAX_TOKENS"] {
            assert_eq!(read(&finished(reason, &parts)).image.unwrap(), "two");
        }
        let only_a_thought = json!([{"inlineData": blob("ZHJhZnQ="), "thought": true}]);
        let taken = read(&finished("STOP", &only_a_thought)).image;
        assert_eq!(taken.unwrap(), "draft");
        // The finish reason of a refusal decides, even if there is an image.
        assert_eq!(
            read(&finished("IMAGE_SAFETY", &parts)).class(),
            Class::Refused
        );
    }

    #[test]
    fn a_refusal_keeps_its_message_and_its_usage() {
        let captured = json!({"candidates": [{"content": {"role": "model"}, "finishReason": "IMAGE_PROHIBITED_CONTENT",
            "finishMessage": "The model output could not be generated. Support code: 42876398."}],
            "usageMetadata": {"promptTokenCount": 1119, "totalTokenCount": 1359, "thoughtsTokenCount": 240}});
        let answer = read(&captured);
        assert_eq!(
            answer.tokens,
            Tokens {
                input: 1_119,
                thought: 240
            }
        );
        let failure = answer.image.unwrap_err();
        assert_eq!(failure.class, Class::Refused);
        assert!(
            failure
                .customer_message()
                .ends_with("Support code: 42876398.")
        );
    }

    #[test]
    fn unknown_reasons_and_empty_answers_are_classified() {
        let nothing = json!([]);
        for (reply, class) in [
            (finished("STOP", &nothing), Class::NoOutput),
            (finished("SOMETHING_NEW", &nothing), Class::Unrecognized),
            (
                json!({"promptFeedback": {"blockReason": "NEW"}}),
                Class::Unrecognized,
            ),
            (json!({"candidates": [{}]}), Class::NoOutput),
            (json!({}), Class::NoOutput),
            (json!([1]), Class::ProviderInvalid),
            (
                json!({"usageMetadata": {"promptTokenCount": "many"}}),
                Class::NoOutput,
            ),
        ] {
            assert_eq!(read(&reply).class(), class, "{reply}");
        }
    }
}

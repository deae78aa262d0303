//! Google's `generateContent`, as Vertex AI and the Gemini Developer API speak it: conversion, nothing else.
//!
//! A refusal is an HTTP 200 without a picture, so the answer is classified by what is in it. Unknown finish and
//! block reasons never fail to parse: servers send more of them than the published protos list.

mod wire;

use bytes::Bytes;
use common::catalog::Tokens;
use common::outcome::table::{self, Dialect};
use common::outcome::{Failure, readable};

use super::google::{self, Credentials};
use super::http::{Base64, ExtractedBody, Http, Timeouts, excerpt, unreadable};
use super::{Answer, PictureRequest};
use wire::{
    Blob, Content, GenerateContent, GenerationConfig, ImageConfig, ImageOutputOptions, Part, Reply,
    ThinkingConfig, Usage,
};

/// The longest id of an answer that is kept, in characters.
const MAX_ID_LENGTH: usize = 500;

/// A request's body.
#[derive(serde::Serialize)]
#[serde(transparent)]
pub struct Body(GenerateContent);

impl Body {
    pub fn for_vertex(request: &PictureRequest<'_>) -> Self {
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

    /// The Developer API refuses labels and a choice of the file type.
    pub fn for_developers(request: &PictureRequest<'_>) -> Self {
        Self(common_body(request))
    }
}

fn common_body(request: &PictureRequest<'_>) -> GenerateContent {
    let mut parts = vec![Part::text(request.prompt)];
    for input in &request.inputs {
        parts.push(Part::text(input.caption()));
        parts.push(Part::picture(Blob {
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
                // A model that makes one size does not know the field.
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

/// Sends the body and reads what comes back.
pub(super) async fn submit(
    http: &Http,
    dialect: Dialect,
    credentials: &Credentials,
    url: &str,
    body: Body,
    request: PictureRequest<'_>,
) -> Answer {
    let (time, room) = request.written();
    let post = http.post_json(url, &body, room);
    // Of the request's pictures nothing is held from here on but what is being sent.
    drop(body);
    let signed = match credentials.authorize(post).await {
        Ok(signed) => signed,
        Err(failure) => return Answer::failed(failure),
    };
    let patience = Timeouts::for_generation(time);
    match http.exchange(signed, patience).await {
        Err(broken) => Answer::failed(broken.failure(dialect)),
        Ok(received) if !received.status.is_success() => {
            Answer::failed(google::refused(dialect, &received))
        }
        Ok(received) => answer(dialect, &received.body),
    }
}

/// What a successful reply holds: a picture, or why there is none.
fn answer(dialect: Dialect, body: &ExtractedBody) -> Answer {
    let reply: Reply = match body.read() {
        Ok(reply) => reply,
        Err(error) => {
            let detail = unreadable(&error);
            return Answer::failed(Failure::new(table::class(dialect, "not_json"), detail));
        }
    };
    let metered = reply.usage_metadata.as_ref();
    let metered: Usage = metered
        .and_then(|usage| serde::Deserialize::deserialize(usage).ok())
        .unwrap_or_default();
    Answer {
        picture: picture(dialect, &reply, body),
        provider_request_id: reply.response_id.map(|id| readable(&id, MAX_ID_LENGTH)),
        usage: reply.usage_metadata,
        tokens: Tokens {
            input: metered.prompt_token_count.max(0),
            thought: metered.thoughts_token_count.max(0),
        },
    }
}

fn picture(dialect: Dialect, reply: &Reply, body: &ExtractedBody) -> Result<Bytes, Failure> {
    let failure = |sign: &str, detail: String| Failure::new(table::class(dialect, sign), detail);
    if let Some(feedback) = &reply.prompt_feedback
        && let Some(reason) = &feedback.block_reason
    {
        let detail = format!("prompt blocked: {}", excerpt(reason));
        return Err(failure(&format!("block:{reason}"), detail)
            .with_provider_message(feedback.block_reason_message.as_deref()));
    }
    let Some(candidate) = reply.candidates.first() else {
        return Err(failure("empty", "an answer without candidates".to_owned()));
    };
    let finish = candidate.finish_reason.as_deref().unwrap_or("STOP");
    let parts = candidate
        .content
        .as_ref()
        .map_or(&[][..], |content| &content.parts);
    // Drafts are marked as thoughts; the last picture that is none is the one. Some models mark their only picture.
    let pictures = || {
        parts
            .iter()
            .rev()
            .filter_map(|part| Some((part.thought, part.inline_data.as_ref()?)))
    };
    let found = pictures()
        .find(|(thought, _)| !thought)
        .or_else(|| pictures().next());
    // A reason that comes with a picture after all, such as MAX_TOKENS, is none to throw it away.
    match found {
        Some((_, blob))
            if matches!(finish, "STOP" | "MAX_TOKENS" | "FINISH_REASON_UNSPECIFIED") =>
        {
            body.picture(dialect, &blob.data)
        }
        _ => {
            let detail = format!("finished with {}, without a picture", excerpt(finish));
            Err(failure(&format!("finish:{finish}"), detail)
                .of_the_request()
                .with_provider_message(candidate.finish_message.as_deref()))
        }
    }
}

#[cfg(test)]
mod tests {
    use common::outcome::Class;
    use serde_json::{Value, json};

    use super::*;

    fn read(reply: &Value) -> Answer {
        answer(Dialect::Vertex, &ExtractedBody::of(reply.to_string()))
    }

    fn finished(reason: &str, parts: &Value) -> Value {
        json!({"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": reason}], "usageMetadata": {}})
    }

    #[test]
    fn the_last_picture_that_is_no_thought_is_taken() {
        let blob = |data: &str| json!({"mimeType": "image/png", "data": data});
        let parts = json!([
            {"text": "Considering…", "thought": true},
            {"inlineData": blob("ZHJhZnQ="), "thought": true},
            {"inlineData": blob("b25l")},
            {"inlineData": blob("dHdv"), "thoughtSignature": "x"},
        ]);
        for reason in ["STOP", "MAX_TOKENS"] {
            assert_eq!(read(&finished(reason, &parts)).picture.unwrap(), "two");
        }
        let only_a_thought = json!([{"inlineData": blob("ZHJhZnQ="), "thought": true}]);
        let taken = read(&finished("STOP", &only_a_thought)).picture;
        assert_eq!(taken.unwrap(), "draft");
        // A refusal is one, whatever else is in it.
        assert_eq!(
            read(&finished("IMAGE_SAFETY", &parts)).class(),
            Class::Refused
        );
    }

    #[test]
    fn a_refusal_tells_its_words_and_what_it_metered() {
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
        let failure = answer.picture.unwrap_err();
        assert_eq!(failure.class, Class::Refused);
        assert!(failure.plain_words().ends_with("Support code: 42876398."));
    }

    #[test]
    fn what_nobody_listed_is_classified_too() {
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

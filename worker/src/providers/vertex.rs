//! Google Vertex AI, `generateContent`: wire types and their conversion, nothing else.
//!
//! A refusal is an HTTP 200 without a picture, so the answer is classified by what is in it. Unknown finish and
//! block reasons never fail to parse: servers send more of them than the published protos list.
//!
//! What the answer comes to is settled in [`common::settlement`], which is where to read next.

mod wire;

use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use common::config::Vertex;
use common::generation::image::Role;
use common::outcome::{Class, Failure};
use futures::future::{BoxFuture, FutureExt};
use google_cloud_auth::credentials::{AccessTokenCredentials, Builder};
use reqwest::{Response, StatusCode};

use super::{Answer, PictureRequest, Provider};
use wire::{
    Blob, Content, GenerateContent, GenerationConfig, ImageConfig, ImageOutputOptions, Part, Reply,
    Status,
};

/// Largest answer that is read: a 4K picture in base64, and room.
const MOST_BYTES: usize = 64 * 1024 * 1024;
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// The provider `vertex`.
pub struct VertexAi {
    client: reqwest::Client,
    project: String,
    base_url: Option<String>,
    token: Token,
}

enum Token {
    Google(AccessTokenCredentials),
    /// A fake takes any token.
    Fake,
}

impl VertexAi {
    pub fn new(config: &Vertex) -> anyhow::Result<Self> {
        let token = if config.synthetic {
            Token::Fake
        } else {
            let credentials = Builder::default()
                .with_scopes([SCOPE])
                .build_access_token_credentials();
            Token::Google(credentials.context("Google credentials are missing: set GOOGLE_APPLICATION_CREDENTIALS or run on Google Cloud")?)
        };
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("platen/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            client,
            project: config.project.clone(),
            base_url: config.base_url.clone(),
            token,
        })
    }

    fn url(&self, request: &PictureRequest<'_>) -> String {
        let location = &request.model.location;
        let host = self
            .base_url
            .clone()
            .unwrap_or_else(|| match location.as_str() {
                "global" => "https://aiplatform.googleapis.com".to_owned(),
                "us" | "eu" => format!("https://aiplatform.{location}.rep.googleapis.com"),
                region => format!("https://{region}-aiplatform.googleapis.com"),
            });
        format!(
            "{host}/v1/projects/{}/locations/{location}/publishers/google/models/{}:generateContent",
            self.project, request.model.id
        )
    }

    async fn token(&self) -> Result<String, Failure> {
        match &self.token {
            Token::Fake => Ok("fake".to_owned()),
            Token::Google(credentials) => {
                let token = credentials.access_token().await;
                // Nothing was sent, so nothing was bought.
                token.map(|token| token.token).map_err(|error| {
                    Failure::new(
                        Class::Unreachable,
                        format!("no Google access token: {error}"),
                    )
                })
            }
        }
    }

    async fn generate(&self, request: &PictureRequest<'_>) -> Result<Answer, Failure> {
        let sent = self
            .client
            .post(self.url(request))
            .bearer_auth(self.token().await?)
            .json(&body(request))
            .send()
            .await;
        let response = sent.map_err(|error| {
            let class = if error.is_connect() {
                Class::Unreachable
            } else {
                Class::Unknown
            };
            Failure::new(class, describe(&error))
        })?;
        let status = response.status();
        let bytes = read(response).await?;
        if status.is_success() {
            Ok(answer(&bytes))
        } else {
            Err(refused_by_status(status, &bytes))
        }
    }
}

impl Provider for VertexAi {
    fn submit<'a>(&'a self, request: &'a PictureRequest<'a>) -> BoxFuture<'a, Answer> {
        async move { self.generate(request).await.unwrap_or_else(Answer::failed) }.boxed()
    }

    fn synthetic(&self) -> bool {
        matches!(self.token, Token::Fake)
    }
}

/// The request as Vertex takes it.
pub fn body(request: &PictureRequest<'_>) -> impl serde::Serialize + use<> {
    let mut parts = vec![Part::text(request.prompt)];
    for input in request.inputs {
        // The caption tells the model which picture is which.
        parts.push(Part::text(match input.role {
            Role::Product => "Product photo:",
            Role::ModelReference => "Reference of the person to show:",
            Role::Style => "Style reference:",
            Role::Source => "Picture to change:",
        }));
        parts.push(Part::picture(Blob {
            mime_type: input.media_type.as_str().to_owned(),
            data: STANDARD.encode(&input.bytes),
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
                image_output_options: ImageOutputOptions {
                    mime_type: "image/png".to_owned(),
                },
            },
            candidate_count: 1,
            seed: request.seed,
        },
        labels: [
            ("job".to_owned(), request.job.to_string()),
            ("call".to_owned(), request.call.to_string()),
        ]
        .into(),
    }
}

/// What a successful reply holds: a picture, or why there is none.
fn answer(bytes: &[u8]) -> Answer {
    let reply: Reply = match serde_json::from_slice(bytes) {
        Ok(reply) => reply,
        Err(error) => {
            return Answer::failed(Failure::new(
                Class::ProviderFault,
                format!("an answer that cannot be read: {error}"),
            ));
        }
    };
    Answer {
        picture: picture(&reply),
        provider_request_id: reply.response_id,
        usage: reply.usage_metadata,
    }
}

fn picture(reply: &Reply) -> Result<Bytes, Failure> {
    if let Some(feedback) = &reply.prompt_feedback
        && let Some(reason) = &feedback.block_reason
    {
        let detail = format!("prompt blocked: {reason}");
        return Err(with_reason(
            Failure::new(Class::Refused, detail),
            feedback.block_reason_message.as_deref(),
        ));
    }
    let Some(candidate) = reply.candidates.first() else {
        return Err(Failure::new(
            Class::ProviderFault,
            "an answer without candidates",
        ));
    };
    let finish = candidate.finish_reason.as_deref().unwrap_or("STOP");
    let class = match finish {
        "STOP" | "MAX_TOKENS" | "FINISH_REASON_UNSPECIFIED" | "NO_IMAGE" => None,
        "SAFETY"
        | "PROHIBITED_CONTENT"
        | "BLOCKLIST"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "MODEL_ARMOR"
        | "ESCALATION"
        | "RECITATION"
        | "IMAGE_RECITATION" => Some(Class::Refused),
        "LANGUAGE" => Some(Class::BadRequest),
        _ => Some(Class::ProviderFault),
    };
    if let Some(class) = class {
        return Err(with_reason(
            Failure::new(class, format!("finished with {finish}")),
            candidate.finish_message.as_deref(),
        ));
    }
    // Drafts are marked as thoughts; the last picture that is none is the one. Some models mark their only picture.
    let parts = candidate
        .content
        .as_ref()
        .map_or(&[][..], |content| &content.parts);
    let pictures = || {
        parts
            .iter()
            .rev()
            .filter_map(|part| Some((part.thought, part.inline_data.as_ref()?)))
    };
    let found = pictures()
        .find(|(thought, _)| !thought)
        .or_else(|| pictures().next());
    let (_, blob) = found.ok_or_else(|| {
        Failure::new(
            Class::ProviderFault,
            format!("finished with {finish}, without a picture"),
        )
    })?;
    let bytes = STANDARD.decode(&blob.data).map_err(|error| {
        Failure::new(
            Class::ProviderFault,
            format!("a picture that is no base64: {error}"),
        )
    })?;
    Ok(bytes.into())
}

/// A refusal's own words go to the customer: they say what to change.
fn with_reason(failure: Failure, said: Option<&str>) -> Failure {
    match said {
        Some(said) if failure.class == Class::Refused => {
            let said: String = said.chars().take(500).collect();
            failure.because(format!("The model's safety rules refused this request: {said} Change the prompt or the pictures and try again."))
        }
        _ => failure,
    }
}

fn refused_by_status(status: StatusCode, bytes: &[u8]) -> Failure {
    let said = serde_json::from_slice::<Status>(bytes)
        .map_or_else(|_| String::new(), |status| status.error.message);
    let class = match status.as_u16() {
        400 | 404 | 413 => Class::BadRequest,
        401 | 403 => Class::Internal,
        408 => Class::Unknown,
        429 => Class::Throttled,
        _ => Class::ProviderFault,
    };
    Failure::new(
        class,
        format!(
            "HTTP {}: {}",
            status.as_u16(),
            said.chars().take(1_000).collect::<String>()
        ),
    )
}

async fn read(mut response: Response) -> Result<Bytes, Failure> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| {
        Failure::new(
            Class::Unknown,
            format!("the answer broke off: {}", describe(&error)),
        )
    })? {
        if bytes.len() + chunk.len() > MOST_BYTES {
            return Err(Failure::new(
                Class::ProviderFault,
                format!("an answer of more than {MOST_BYTES} bytes"),
            ));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// An error with its causes, without the URL.
fn describe(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        text = if text.is_empty() {
            error.to_string()
        } else {
            format!("{text}: {error}")
        };
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(reply: &serde_json::Value) -> Class {
        answer(reply.to_string().as_bytes())
            .picture
            .map_or_else(|failure| failure.class, |_| Class::Ok)
    }

    fn finished(reason: &str, parts: &serde_json::Value) -> serde_json::Value {
        serde_json::json!({"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": reason}], "usageMetadata": {}})
    }

    #[test]
    fn the_last_picture_that_is_no_thought_is_taken() {
        let blob = |data: &str| serde_json::json!({"mimeType": "image/png", "data": data});
        let parts = serde_json::json!([
            {"text": "Considering…", "thought": true},
            {"inlineData": blob("ZHJhZnQ="), "thought": true},
            {"inlineData": blob("b25l")},
            {"inlineData": blob("dHdv"), "thoughtSignature": "x"},
        ]);
        assert_eq!(
            answer(finished("STOP", &parts).to_string().as_bytes())
                .picture
                .unwrap(),
            "two"
        );
        let only_a_thought = serde_json::json!([{"inlineData": blob("ZHJhZnQ="), "thought": true}]);
        assert_eq!(
            answer(finished("STOP", &only_a_thought).to_string().as_bytes())
                .picture
                .unwrap(),
            "draft"
        );
    }

    #[test]
    fn an_answer_without_a_picture_is_classified_by_what_it_says() {
        let nothing = serde_json::json!([]);
        for (reason, class) in [
            ("STOP", Class::ProviderFault),
            ("NO_IMAGE", Class::ProviderFault),
            ("IMAGE_SAFETY", Class::Refused),
            ("IMAGE_PROHIBITED_CONTENT", Class::Refused),
            ("LANGUAGE", Class::BadRequest),
            ("SOMETHING_NEW", Class::ProviderFault),
        ] {
            assert_eq!(class_of(&finished(reason, &nothing)), class, "{reason}");
        }
        assert_eq!(
            class_of(&serde_json::json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}})),
            Class::Refused
        );
        assert_eq!(class_of(&serde_json::json!({})), Class::ProviderFault);
        assert_eq!(
            answer(b"<html>").picture.unwrap_err().class,
            Class::ProviderFault
        );
    }

    #[test]
    fn a_status_is_classified() {
        for (status, class) in [
            (400, Class::BadRequest),
            (403, Class::Internal),
            (429, Class::Throttled),
            (503, Class::ProviderFault),
        ] {
            assert_eq!(
                refused_by_status(StatusCode::from_u16(status).unwrap(), b"{}").class,
                class,
                "{status}"
            );
        }
    }
}

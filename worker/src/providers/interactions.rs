//! The client of Gemini Interactions. The model works in the background, and any worker can poll
//! the operation. Google calls the operation an interaction: the operation's id is the id of the
//! interaction.
//!
//! A refusal is a failed interaction or an HTTP error with one of certain codes. Unknown statuses,
//! steps and codes never fail to parse.

mod answer;
mod operation;
mod wire;

use std::time::Duration;

use domain::catalog::Lane;
use domain::outcome::{Failure, table};
use futures::future::{BoxFuture, FutureExt};
use reqwest::{RequestBuilder, StatusCode};

use super::google::Credentials;
use super::http::{Base64, Http, Received, Timeouts};
use super::{Answer, CallRequest, Provider, ProviderSettings, Reply, gemini};
use answer::DIALECT;
use wire::{Content, CreateInteraction, GenerationConfig, Image, ResponseFormat, Step};

/// The header that names the version of requests and answers. Google has changed their format
/// before, so each request names the version.
const REVISION_HEADER: (&str, &str) = ("api-revision", "2026-05-20");

/// The client of a provider with the dialect `interactions`.
pub struct Interactions {
    http: Http,
    base_url: String,
    credentials: Credentials,
}

/// The JSON body of a request.
#[derive(serde::Serialize)]
#[serde(transparent)]
pub struct Body(CreateInteraction);

impl Interactions {
    /// Builds the client.
    ///
    /// # Errors
    ///
    /// Returns an error if the API key is missing.
    pub fn new(settings: &ProviderSettings<'_>) -> anyhow::Result<Self> {
        Ok(Self {
            http: Http::new(settings)?,
            base_url: settings
                .base_url()
                .unwrap_or_else(|| gemini::BASE_URL.to_owned()),
            credentials: Credentials::Key(settings.required_key(gemini::KEY_VARIABLE)?),
        })
    }

    /// The URL of all interactions.
    fn url(&self) -> String {
        format!("{}/v1beta/interactions", self.base_url)
    }

    /// Sends a request with the credentials, and reads the answer.
    async fn exchange(
        &self,
        request: RequestBuilder,
        timeouts: Timeouts,
    ) -> Result<Received, Failure> {
        let (name, revision) = REVISION_HEADER;
        let authorized = self
            .credentials
            .authorize(request.header(name, revision))
            .await?;
        let received = self.http.exchange(authorized, timeouts).await;
        received.map_err(|error| error.into_failure(DIALECT))
    }

    /// Creates an interaction, and converts the answer.
    async fn create(&self, request: CallRequest<'_>) -> Result<Reply, Failure> {
        let body = Body::from_request(&request);
        let (timeout, permit) = request.into_timeout_and_permit();
        let post = self.http.post_json(&self.url(), &body, permit);
        drop(body);
        // As a rule the answer comes at once. It may still take as long as an image takes: without
        // the operation that the answer names, the paid image would be lost.
        let timeouts = Timeouts::for_generation(timeout);
        let received = self.exchange(post, timeouts).await?;
        if !received.status.is_success() {
            return Err(answer::http_failure(&received));
        }
        answer::parse(&received.body)
    }

    /// Asks for the state of an interaction. `operation` is its id.
    async fn get(&self, operation: &str, timeout: Duration) -> Result<Reply, Failure> {
        let Some(url) = operation::url(&self.url(), operation) else {
            return Ok(operation_gone("the operation is not usable in a URL"));
        };
        let get = self.http.get(url.as_str());
        let received = self.exchange(get, Timeouts::for_get(timeout)).await?;
        if received.status == StatusCode::NOT_FOUND {
            return Ok(operation_gone(
                "HTTP 404: the provider does not know the interaction",
            ));
        }
        if !received.status.is_success() {
            return Err(answer::http_failure(&received));
        }
        Ok(match answer::parse(&received.body)? {
            // The operation keeps the id that is recorded on the call, whatever id the answer has.
            Reply::Operation(_) => Reply::Operation(operation.to_owned()),
            answered @ Reply::Answered(_) => answered,
        })
    }
}

impl Provider for Interactions {
    fn submit<'a>(&'a self, request: CallRequest<'a>) -> BoxFuture<'a, Reply> {
        async move {
            let created = self.create(request).await;
            created.unwrap_or_else(|failure| Reply::Answered(Answer::failed(failure)))
        }
        .boxed()
    }

    fn poll<'a>(
        &'a self,
        _lane: &'a Lane,
        operation: &'a str,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Reply, Failure>> {
        self.get(operation, timeout).boxed()
    }
}

impl Body {
    /// The body of a request whose work is done in the background.
    pub fn from_request(request: &CallRequest<'_>) -> Self {
        let text = |text: &str| Content::Text {
            text: text.to_owned(),
        };
        let mut content = vec![text(request.prompt)];
        for input in &request.inputs {
            content.push(text(input.caption()));
            content.push(Content::Image(Image {
                mime_type: Some(input.media_type.as_str().to_owned()),
                data: Some(Base64::Sent(input.bytes.clone())),
                uri: None,
            }));
        }
        Self(CreateInteraction {
            model: request.model.name.clone(),
            input: vec![Step::UserInput { content }],
            system_instruction: request.art_direction.map(ToOwned::to_owned),
            response_format: ResponseFormat::Image {
                aspect_ratio: request.aspect_ratio.as_str().to_owned(),
                // A model with a single size refuses the field.
                image_size: (request.model.sizes.len() > 1)
                    .then(|| request.size.as_str().to_owned()),
                delivery: "inline".to_owned(),
            },
            generation_config: GenerationConfig {
                seed: request.seed,
                // The levels of `generateContent` are in upper case, those here in lower case.
                thinking_level: request.thinking.map(str::to_ascii_lowercase),
            },
            background: true,
            store: true,
        })
    }
}

/// The answer that ends a call whose operation cannot be polled any more: the provider does not know
/// it, or its id is not usable in a URL.
fn operation_gone(detail: &str) -> Reply {
    let failure = Failure::new(table::class(DIALECT, "gone"), detail);
    Reply::Answered(Answer::failed(failure))
}

//! Gemini Interactions: the model works in the background and leaves a handle, which any worker can ask under.
//!
//! A refusal is an interaction that failed and says so in a word of its own, or an error with that word. Unknown
//! statuses, steps and words never fail to parse.

mod wire;

use std::time::Duration;

use bytes::Bytes;
use common::catalog::{Lane, Tokens};
use common::outcome::table::{self, Dialect};
use common::outcome::{Class, Failure, readable};
use futures::future::{BoxFuture, FutureExt};
use reqwest::{RequestBuilder, StatusCode, Url};

use super::google::{self, Credentials};
use super::http::{Base64, ExtractedBody, Http, Received, Timeouts, excerpt, unreadable};
use super::{Answer, PictureRequest, Provider, ProviderSettings, Reply, gemini};
use wire::{
    Content, CreateInteraction, Error, GenerationConfig, Image, Interaction, Refusal,
    ResponseFormat, Step, Usage,
};

const DIALECT: Dialect = Dialect::Interactions;
/// The shape of requests and answers. It changed once already, so it is named.
const REVISION: (&str, &str) = ("api-revision", "2026-05-20");
/// Longest handle that is kept, in bytes.
const LONGEST_HANDLE: usize = 500;

/// A provider of the dialect `interactions`.
pub struct Interactions {
    http: Http,
    base_url: String,
    credentials: Credentials,
}

/// A request's body.
#[derive(serde::Serialize)]
#[serde(transparent)]
pub struct Body(CreateInteraction);

impl Interactions {
    pub fn new(account: &ProviderSettings<'_>) -> anyhow::Result<Self> {
        Ok(Self {
            http: Http::new(account)?,
            base_url: account
                .base_url()
                .unwrap_or_else(|| gemini::BASE_URL.to_owned()),
            credentials: Credentials::Key(account.needed_key(gemini::KEY)?),
        })
    }

    fn url(&self) -> String {
        format!("{}/v1beta/interactions", self.base_url)
    }

    async fn exchange(
        &self,
        request: RequestBuilder,
        patience: Timeouts,
    ) -> Result<Received, Failure> {
        let (name, revision) = REVISION;
        let signed = self
            .credentials
            .authorize(request.header(name, revision))
            .await?;
        let received = self.http.exchange(signed, patience).await;
        received.map_err(|broken| broken.failure(DIALECT))
    }

    async fn create(&self, request: PictureRequest<'_>) -> Result<Reply, Failure> {
        let body = Body::of(&request);
        let (time, room) = request.written();
        let post = self.http.post_json(&self.url(), &body, room);
        drop(body);
        // Whoever gives up too early loses the handle, and with it the picture.
        let received = self.exchange(post, Timeouts::for_generation(time)).await?;
        if !received.status.is_success() {
            return Err(refused(&received));
        }
        read(&received.body)
    }

    async fn ask(&self, operation: &str, time: Duration) -> Result<Reply, Failure> {
        let Some(url) = url_of(&self.url(), operation) else {
            return Ok(gone("a handle that is none"));
        };
        let get = self.http.get(url.as_str());
        let received = self.exchange(get, Timeouts::for_poll(time)).await?;
        if received.status == StatusCode::NOT_FOUND {
            return Ok(gone("HTTP 404: the provider does not know the interaction"));
        }
        if !received.status.is_success() {
            return Err(refused(&received));
        }
        Ok(match read(&received.body)? {
            // The handle stays the one it was accepted under.
            Reply::Working(_) => Reply::Working(operation.to_owned()),
            answered @ Reply::Answered(_) => answered,
        })
    }
}

impl Provider for Interactions {
    fn submit<'a>(&'a self, request: PictureRequest<'a>) -> BoxFuture<'a, Reply> {
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
        time: Duration,
    ) -> BoxFuture<'a, Result<Reply, Failure>> {
        self.ask(operation, time).boxed()
    }
}

impl Body {
    pub fn of(request: &PictureRequest<'_>) -> Self {
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
                // A model that makes one size does not know the field.
                image_size: (request.model.sizes.len() > 1)
                    .then(|| request.size.as_str().to_owned()),
                delivery: "inline".to_owned(),
            },
            generation_config: GenerationConfig {
                seed: request.seed,
                // What `generateContent` shouts is said quietly here.
                thinking_level: request.thinking.map(str::to_ascii_lowercase),
            },
            background: true,
            store: true,
        })
    }
}

/// Where the work under a handle is asked for. A handle is somebody else's text: it is one segment, or nothing.
fn url_of(interactions: &str, operation: &str) -> Option<Url> {
    if operation.is_empty()
        || operation.len() > LONGEST_HANDLE
        || matches!(operation, "." | "..")
        || operation.contains(char::is_control)
    {
        return None;
    }
    let mut url = Url::parse(interactions).ok()?;
    url.path_segments_mut().ok()?.push(operation);
    Some(url)
}

fn gone(detail: &str) -> Reply {
    let failure = Failure::new(table::class(DIALECT, "gone"), detail);
    Reply::Answered(Answer::failed(failure))
}

/// An answer with a status that is no success. A bad request and a throttle are told more exactly by the error's word,
/// and a throttle for ever only by its message.
fn refused(received: &Received) -> Failure {
    let mut failure = google::refused(DIALECT, received);
    let Ok(Refusal { error }) = received.body.read() else {
        return failure;
    };
    let said = error.message.as_deref();
    if said.is_some_and(|said| said.contains("do not have enough quota")) {
        failure.class = table::class(DIALECT, "no_quota");
    } else if let Some(sign) = error.answer_signal()
        && matches!(failure.class, Class::BadRequest | Class::Throttled)
    {
        failure.class = table::class(DIALECT, &sign);
    }
    failure.with_provider_message(said)
}

/// What a successful answer says: the work goes on, or has come to an end.
fn read(body: &ExtractedBody) -> Result<Reply, Failure> {
    let invalid = |detail: String| Failure::new(table::class(DIALECT, "not_json"), detail);
    let interaction: Interaction = (body.read()).map_err(|error| invalid(unreadable(&error)))?;
    let Some(status) = interaction.status.as_deref() else {
        return Err(invalid("an interaction without a status".to_owned()));
    };
    if !matches!(status, "queued" | "in_progress") {
        return Ok(Reply::Answered(answer(interaction, body)));
    }
    match interaction.id {
        Some(id) if url_of(gemini::BASE_URL, &id).is_some() => Ok(Reply::Working(id)),
        _ => Err(invalid(
            "work in the background without a usable handle".to_owned(),
        )),
    }
}

/// What an interaction that ended holds: a picture, or why there is none.
fn answer(interaction: Interaction, body: &ExtractedBody) -> Answer {
    let metered: Usage = (interaction.usage.as_ref())
        .and_then(|usage| serde::Deserialize::deserialize(usage).ok())
        .unwrap_or_default();
    Answer {
        picture: picture(&interaction, body),
        provider_request_id: interaction.id.map(|id| readable(&id, LONGEST_HANDLE)),
        usage: interaction.usage,
        tokens: Tokens {
            input: metered.total_input_tokens.max(0),
            thought: metered.total_thought_tokens.max(0),
        },
    }
}

fn picture(interaction: &Interaction, body: &ExtractedBody) -> Result<Bytes, Failure> {
    let failure = |sign: &str, detail: String| Failure::new(table::class(DIALECT, sign), detail);
    let status = interaction.status.as_deref().unwrap_or_default();
    // A picture that came although the work was cut short is none to throw away; one of work that failed is.
    let ended_well = matches!(
        status,
        "completed" | "incomplete" | "budget_exceeded" | "requires_continuation"
    );
    match interaction.image() {
        Some(Image {
            data: Some(data), ..
        }) if ended_well && !data.is_empty() => body.picture(DIALECT, data),
        Some(image) if ended_well => {
            let address = image.uri.as_deref().unwrap_or_default();
            body.picture_in_address(DIALECT, address)
                .unwrap_or_else(|| {
                    let detail =
                        "the picture is at an address, although it was to be in the answer";
                    Err(failure("elsewhere", detail.to_owned()))
                })
        }
        _ => {
            let told = interaction
                .errors()
                .find(|error| error.answer_signal().is_some());
            let told = told.or_else(|| interaction.errors().next());
            let sign = told
                .and_then(Error::answer_signal)
                .unwrap_or_else(|| match status {
                    "completed" if interaction.says_something() => "text_only".to_owned(),
                    "completed" => "empty".to_owned(),
                    status => format!("interaction:{status}"),
                });
            let said = told.and_then(|error| error.message.as_deref());
            let detail = format!(
                "ended as {}, without a picture: {}",
                excerpt(status),
                excerpt(said.unwrap_or(&sign))
            );
            Err(failure(&sign, detail).with_provider_message(said))
        }
    }
}

impl Interaction {
    /// What came after the last input, the newest first.
    fn newest(&self) -> impl Iterator<Item = &Step> {
        let ours = |step: &&Step| matches!(step, Step::UserInput { .. });
        self.steps.iter().rev().take_while(move |step| !ours(step))
    }

    /// The last picture that is no draft; drafts are thoughts. Where every one is a thought, the last of them.
    fn image(&self) -> Option<&Image> {
        let made = self.newest().find_map(|step| match step {
            Step::ModelOutput { content, .. } => last_image(content),
            _ => None,
        });
        made.or_else(|| {
            self.newest().find_map(|step| match step {
                Step::Thought { summary } => last_image(summary),
                _ => None,
            })
        })
    }

    fn says_something(&self) -> bool {
        self.newest().any(|step| match step {
            Step::ModelOutput { content, .. } => content
                .iter()
                .any(|one| matches!(one, Content::Text { text } if !text.trim().is_empty())),
            _ => false,
        })
    }

    /// Everything that went wrong.
    fn errors(&self) -> impl Iterator<Item = &Error> {
        let of_steps = self.newest().filter_map(|step| match step {
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
    /// The row of what went wrong, if there is one. Its word may come at the end of an address, and the filters were
    /// seen to put a sentence in its place: then the message begins as theirs do.
    fn answer_signal(&self) -> Option<String> {
        let word = self
            .code
            .as_str()
            .and_then(|code| code.rsplit(['/', '#', ':']).next());
        let sign = word.map(|word| format!("error:{}", word.to_ascii_lowercase()));
        if let Some(sign) = sign.filter(|sign| table::names(DIALECT, sign)) {
            return Some(sign);
        }
        let message = self.message.as_deref()?.to_ascii_lowercase();
        let sign = if message.starts_with("input blocked") {
            "error:content_blocked"
        } else if !message.starts_with("request blocked") {
            return None;
        } else if message.contains("copyright") || message.contains("recitation") {
            "error:recitation"
        } else {
            "error:safety"
        };
        Some(sign.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ended(interaction: &Value) -> Answer {
        match read(&ExtractedBody::of(interaction.to_string())).unwrap() {
            Reply::Answered(answer) => answer,
            Reply::Working(handle) => panic!("{handle} still works"),
        }
    }

    fn image(data: &str) -> Value {
        json!({"type": "image", "mime_type": "image/jpeg", "data": data})
    }

    fn failed(code: &str, message: &str) -> Value {
        json!({"id": "v1_a", "status": "failed", "errors": [{"code": code, "message": message}],
            "steps": [{"type": "model_output", "error": {"code": 3, "message": message}}]})
    }

    fn refusal(status: u16, body: &Value) -> Failure {
        refused(&Received {
            status: StatusCode::from_u16(status).unwrap(),
            headers: reqwest::header::HeaderMap::new(),
            body: ExtractedBody::of(body.to_string()),
        })
    }

    #[test]
    fn work_that_goes_on_leaves_a_handle() {
        for status in ["queued", "in_progress"] {
            let reply = json!({"id": "v1_a-b.c", "status": status}).to_string();
            let Reply::Working(handle) = read(&ExtractedBody::of(reply)).unwrap() else {
                panic!("{status} is no end")
            };
            assert_eq!(handle, "v1_a-b.c");
        }
        for unusable in [
            json!({"status": "queued"}),
            json!({"id": "", "status": "queued"}),
            json!({"id": "..", "status": "queued"}),
            json!({"id": "x".repeat(501), "status": "queued"}),
            json!({"id": "x"}),
            json!([]),
        ] {
            let failure = read(&ExtractedBody::of(unusable.to_string())).unwrap_err();
            assert_eq!(failure.class, Class::ProviderInvalid, "{unusable}");
        }
    }

    #[test]
    fn a_handle_is_one_segment_of_the_address_whatever_is_in_it() {
        let base = "http://127.0.0.1:1/v1beta/interactions";
        let asked = |handle| url_of(base, handle).map(|url| url.to_string());
        assert_eq!(asked("v1_Ab-9").unwrap(), format!("{base}/v1_Ab-9"));
        assert_eq!(
            asked("../a?b#c%2F").unwrap(),
            format!("{base}/..%2Fa%3Fb%23c%252F")
        );
        assert_eq!(asked("."), None);
        assert_eq!(asked("a\nb"), None);
    }

    #[test]
    fn the_last_picture_that_is_no_thought_is_taken() {
        let steps = json!([
            {"type": "user_input", "content": [image("b3Vycw==")]},
            {"type": "thought", "summary": [image("ZHJhZnQ=")]},
            {"type": "model_output", "content": [image("b25l"), {"type": "text", "text": "Better:"}, image("dHdv")]},
            {"type": "something_new", "content": "unheard of"},
            {"type": "thought", "signature": "x", "summary": [image("ZHJhZnQ=")]},
            {"type": "model_output", "content": [{"type": "hologram", "data": {}}, {"type": "text", "text": "Done."}]},
        ]);
        for status in ["completed", "incomplete"] {
            let answer = ended(&json!({"id": "v1_a", "status": status, "steps": steps,
                "usage": {"total_input_tokens": 1_119, "total_thought_tokens": 240, "total_output_tokens": 1_120}}));
            assert_eq!(answer.picture.unwrap(), "two");
            assert_eq!(answer.provider_request_id.as_deref(), Some("v1_a"));
            assert_eq!((answer.tokens.input, answer.tokens.thought), (1_119, 240));
            assert!(answer.usage.is_some());
        }
        let only_a_thought = json!([{"type": "thought", "summary": [image("ZHJhZnQ=")]}]);
        let answer = ended(&json!({"status": "completed", "steps": only_a_thought}));
        assert_eq!(answer.picture.unwrap(), "draft");
        // What failed is no picture, whatever else is in it.
        let answer = ended(&json!({"status": "failed", "steps": steps}));
        assert_eq!(answer.class(), Class::ProviderFault);
    }

    #[test]
    fn an_end_without_a_picture_is_classified() {
        let output = |content: Value| json!({"status": "completed", "steps": [{"type": "model_output", "content": [content]}]});
        for (interaction, class) in [
            (json!({"status": "completed"}), Class::NoOutput),
            (
                output(json!({"type": "text", "text": "No."})),
                Class::NoOutput,
            ),
            (output(image("???")), Class::ProviderInvalid),
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
            assert_eq!(ended(&interaction).class(), class, "{interaction}");
        }
    }

    #[test]
    fn a_filter_that_speaks_in_sentences_is_understood() {
        let captured = json!({"error": {
            "message": "Request blocked due to safety violations (harmful content). Please modify your input and retry.",
            "code": "Unable to show the generated image. The image was filtered out because it violated a policy: try again.",
        }});
        let failure = refusal(400, &captured);
        assert_eq!(failure.class, Class::Refused);
        assert!(
            failure
                .plain_words()
                .ends_with("Please modify your input and retry.")
        );
        let error = &captured["error"];
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        let answer = ended(&failed(&text("code"), &text("message")));
        assert_eq!(answer.class(), Class::Refused);
        let blocked = failed("", "Input blocked: The prompt could not be processed.");
        assert_eq!(ended(&blocked).class(), Class::RefusedPrompt);
    }

    #[test]
    fn the_word_of_an_error_is_more_exact_than_its_status() {
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

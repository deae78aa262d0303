//! OpenAI images, and the servers of one's own that speak like it: one call, one answer, no handle.
//!
//! Such servers differ in small ways, and each difference is a line in the catalogue: `base_url`, `pixels`, `seed`,
//! `extra`. A picture that is answered by its address is fetched from the server itself and from nobody else.

mod wire;

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use common::catalog::{Model, Tokens};
use common::generation::image::{AspectRatio, MediaType, Pixels, Size, pixels};
use common::memory::{MemoryPermit, with_permit};
use common::outcome::table::{self, Dialect};
use common::outcome::{Class, Failure};
use futures::future::{BoxFuture, FutureExt};
use reqwest::multipart::{self, Form};
use reqwest::{RequestBuilder, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::http::{ExtractedBody, Http, Received, Timeouts, describe_status, unreadable};
use super::{Answer, PictureRequest, Provider, ProviderSettings, Reply};
use wire::{Error, Image, Images, OneOrMany, Usage};

pub(super) use wire::Part;

const DIALECT: Dialect = Dialect::Openai;
const BASE_URL: &str = "https://api.openai.com";
/// The variable that holds the key, unless the catalogue names another.
const KEY: &str = "OPENAI_API_KEY";

/// A provider of the dialect `openai`.
pub struct OpenAi {
    http: Http,
    base_url: Url,
    key: Option<SecretString>,
}

/// A request's body.
pub(super) enum Body {
    /// A picture from words.
    Generation(Map<String, Value>),
    /// A picture from words and pictures.
    Edit(Vec<Part>),
}

impl OpenAi {
    pub fn new(account: &ProviderSettings<'_>) -> anyhow::Result<Self> {
        let provider = account.provider;
        // A server of one's own may need no key, and never gets the one that was meant for OpenAI.
        let own = provider.base_url.is_some() && provider.api_key.is_none();
        let key = if own && account.fake.is_none() {
            None
        } else {
            Some(account.needed_key(KEY)?)
        };
        let base_url = account.base_url().unwrap_or_else(|| BASE_URL.to_owned());
        let base_url = Url::parse(&base_url)
            .ok()
            .filter(Url::has_host)
            .with_context(|| {
                format!(
                    "the base_url of provider {} is no address, such as http://127.0.0.1:8000",
                    provider.name
                )
            })?;
        Ok(Self {
            http: Http::new(account)?,
            base_url,
            key,
        })
    }

    fn authorize(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key.expose_secret()),
            None => request,
        }
    }

    async fn make(&self, mut request: PictureRequest<'_>) -> Result<Answer, Failure> {
        let base_url = self.base_url.as_str().trim_end_matches('/');
        let body = Body::of(&request);
        let url = format!("{base_url}{}", body.path());
        request.inputs.clear();
        let (time, room) = request.written();
        let post = match body {
            Body::Generation(fields) => self.http.post_json(&url, &fields, room),
            Body::Edit(parts) => self.http.post(&url).multipart(form(parts, room)?),
        };
        let patience = Timeouts::for_generation(time);
        let received = self.http.exchange(self.authorize(post), patience).await;
        let received = received.map_err(|broken| broken.failure(DIALECT))?;
        let request_id = received.header("x-request-id");
        let mut answer = if received.status.is_success() {
            self.answer(received.body, time).await
        } else {
            Answer::failed(refused(&received))
        };
        answer.provider_request_id = request_id.filter(|id| id.len() <= 500);
        Ok(answer)
    }

    /// What a successful answer holds: a picture, or why there is none.
    async fn answer(&self, body: ExtractedBody, time: Duration) -> Answer {
        let (picture, usage) = match read(&body) {
            Ok(read) => read,
            Err(failure) => return Answer::failed(failure),
        };
        // Whoever waits for room must hold none.
        drop(body);
        let picture = match picture {
            Ok(Picture::Here(picture)) => Ok(picture),
            Ok(Picture::At(address)) => self.fetch(&address, time).await,
            Err(failure) => Err(failure),
        };
        let metered: Usage = (usage.as_ref())
            .and_then(|usage| serde::Deserialize::deserialize(usage).ok())
            .unwrap_or_default();
        Answer {
            picture,
            provider_request_id: None,
            usage,
            tokens: Tokens {
                input: metered.input_tokens.max(0),
                thought: 0,
            },
        }
    }

    /// Fetches a picture the server made. However that fails, the picture was made: it is the answer that is invalid.
    async fn fetch(&self, address: &str, time: Duration) -> Result<Bytes, Failure> {
        let url = own_address(&self.base_url, address).ok_or_else(|| {
            let detail =
                "the picture is at an address that is not the server's own, so it was not fetched";
            failure("elsewhere", detail.to_owned())
        })?;
        let get = self.http.get(url.as_str());
        let patience = Timeouts::for_poll(time);
        let problem = match self.http.download(self.authorize(get), patience).await {
            Ok((status, file)) if status.is_success() => return Ok(file),
            Ok((status, _)) => format!("HTTP {}", status.as_u16()),
            Err(broken) => broken.failure(DIALECT).detail,
        };
        let detail = format!("the picture could not be fetched from its address: {problem}");
        Err(failure("elsewhere", detail))
    }
}

impl Provider for OpenAi {
    fn submit<'a>(&'a self, request: PictureRequest<'a>) -> BoxFuture<'a, Reply> {
        async move {
            let made = self.make(request).await;
            Reply::Answered(made.unwrap_or_else(Answer::failed))
        }
        .boxed()
    }
}

impl Body {
    pub(super) fn of(request: &PictureRequest<'_>) -> Self {
        let fields = fields(request);
        if request.inputs.is_empty() {
            return Self::Generation(fields);
        }
        let texts = fields.into_iter().map(|(name, value)| Part::Text {
            name,
            text: match value {
                Value::String(text) => text,
                other => other.to_string(),
            },
        });
        let pictures = request.inputs.iter().enumerate();
        let files = pictures.map(|(index, input)| Part::File {
            name: "image[]",
            file_name: format!("input-{index}.{}", extension(input.media_type)),
            media_type: input.media_type,
            bytes: input.bytes.clone(),
        });
        Self::Edit(texts.chain(files).collect())
    }

    fn path(&self) -> &'static str {
        match self {
            Self::Generation(_) => "/v1/images/generations",
            Self::Edit(_) => "/v1/images/edits",
        }
    }
}

/// What both requests say. What the catalogue adds has the last word.
fn fields(request: &PictureRequest<'_>) -> Map<String, Value> {
    let Pixels { width, height } = size(request.model, request.aspect_ratio, request.size);
    let mut fields = Map::new();
    fields.insert("model".to_owned(), request.model.name.clone().into());
    fields.insert("prompt".to_owned(), prompt(request).into());
    fields.insert("n".to_owned(), 1.into());
    fields.insert("size".to_owned(), format!("{width}x{height}").into());
    fields.insert("output_format".to_owned(), "png".into());
    if let Some(seed) = request.seed {
        fields.insert("seed".to_owned(), seed.into());
    }
    fields.extend(request.model.extra.clone());
    fields
}

/// The API has one text for everything: the art direction goes before the prompt, the pictures' roles after it.
fn prompt(request: &PictureRequest<'_>) -> String {
    let mut paragraphs: Vec<String> = Vec::new();
    paragraphs.extend(request.art_direction.map(ToOwned::to_owned));
    paragraphs.push(request.prompt.to_owned());
    let roles: Vec<String> = (1..)
        .zip(&request.inputs)
        .map(|(number, input)| {
            let role = input.caption().trim_end_matches(':');
            format!("Picture {number}: {role}")
        })
        .collect();
    if !roles.is_empty() {
        paragraphs.push(roles.join("\n"));
    }
    paragraphs.join("\n\n")
}

/// The pixels that are asked for: those that are wanted, or of those the model takes the nearest in shape; of these
/// the smallest that is large enough, else the largest.
fn size(model: &Model, ratio: AspectRatio, size: Size) -> Pixels {
    let wanted = pixels(ratio, size);
    let shape = |pixels: &Pixels| (f64::from(pixels.width) / f64::from(pixels.height)).ln();
    let area = |pixels: &Pixels| u64::from(pixels.width) * u64::from(pixels.height);
    let off = |pixels: &Pixels| (shape(pixels) - shape(&wanted)).abs();
    let too_small = |pixels: &Pixels| area(pixels) < area(&wanted);
    let nearer = |one: &&Pixels, other: &&Pixels| -> Ordering {
        let room = |pixels: &Pixels| area(pixels).abs_diff(area(&wanted));
        (off(one).total_cmp(&off(other)))
            .then_with(|| too_small(one).cmp(&too_small(other)))
            .then_with(|| room(one).cmp(&room(other)))
    };
    model
        .pixels
        .iter()
        .min_by(nearer)
        .copied()
        .unwrap_or(wanted)
}

fn extension(media_type: MediaType) -> &'static str {
    match media_type {
        MediaType::Png => "png",
        MediaType::Jpeg => "jpg",
        MediaType::Webp => "webp",
    }
}

/// The pictures keep their room until the last of them is sent.
fn form(parts: Vec<Part>, room: Option<MemoryPermit>) -> Result<Form, Failure> {
    let room = room.map(Arc::new);
    parts.into_iter().try_fold(Form::new(), |form, part| {
        Ok(match part {
            Part::Text { name, text } => form.text(name, text),
            Part::File {
                name,
                file_name,
                media_type,
                bytes,
            } => {
                let length = bytes.len() as u64;
                let bytes = with_permit(bytes, room.clone());
                let file = multipart::Part::stream_with_length(bytes, length)
                    .file_name(file_name)
                    .mime_str(media_type.as_str())
                    .map_err(|error| Failure::new(Class::Internal, error.to_string()))?;
                form.part(name, file)
            }
        })
    })
}

/// Where a picture is.
#[derive(Debug)]
enum Picture {
    Here(Bytes),
    At(String),
}

/// The picture of a successful answer, or why there is none, and what was metered.
fn read(body: &ExtractedBody) -> Result<(Result<Picture, Failure>, Option<Value>), Failure> {
    let unreadable = |error| failure("not_json", unreadable(&error));
    let OneOrMany(answers) = body.read::<OneOrMany<Images>>().map_err(unreadable)?;
    let mut none = None;
    let mut metered = None;
    for mut images in answers {
        metered = metered.or_else(|| images.usage.take());
        for image in images.into_pictures() {
            match image.picture(body) {
                Some(Ok(picture)) => return Ok((Ok(picture), metered)),
                Some(Err(failure)) => none = none.or(Some(failure)),
                None => {}
            }
        }
    }
    let none = none.unwrap_or_else(|| {
        let said = body.read().ok().and_then(|said| Error::of(&said));
        match said {
            Some(error) => failed(StatusCode::OK, &error),
            None => failure("empty", "an answer without a picture".to_owned()),
        }
    });
    Ok((Err(none), metered))
}

impl Image {
    /// Where it is; `None`: nowhere. What is here is taken before what would have to be fetched.
    fn picture(self, body: &ExtractedBody) -> Option<Result<Picture, Failure>> {
        let mut none = None;
        if let Some(data) = self.b64_json.filter(|data| !data.is_empty()) {
            match body.picture(DIALECT, &data) {
                Ok(picture) => return Some(Ok(Picture::Here(picture))),
                Err(failure) => none = Some(Err(failure)),
            }
        }
        let there = self.url.filter(|address| !address.is_empty());
        let there = there.map(|address| match body.picture_in_address(DIALECT, &address) {
            Some(picture) => picture.map(Picture::Here),
            None => Ok(Picture::At(address)),
        });
        there.or(none)
    }
}

/// The address, whole, if it is the server's own: whoever answers must not send us, and never our key, elsewhere.
fn own_address(base_url: &Url, address: &str) -> Option<Url> {
    let url = base_url.join(address).ok()?;
    (url.origin() == base_url.origin()).then_some(url)
}

/// An answer with a status that is no success.
fn refused(received: &Received) -> Failure {
    let said = received.body.read().ok().and_then(|said| Error::of(&said));
    let mut failure = failed(received.status, &said.unwrap_or_default());
    failure.retry_after = received.retry_after();
    failure
}

/// An error. A word the table knows is more exact than the status, and where the status is that of a success, the word says which
/// one it should have been.
fn failed(status: StatusCode, error: &Error) -> Failure {
    let mut signs = error.words.iter().map(|word| format!("error:{word}"));
    let known = signs.find(|sign| table::names(DIALECT, sign));
    let code = if status.is_success() {
        error.usual_status()
    } else {
        Some(status.as_u16())
    };
    let sign = known.or_else(|| Some(format!("status:{}", code?)));
    // In words that nobody listed.
    let sign = sign.unwrap_or_else(|| "error".to_owned());
    let words = error.words.join(", ");
    let message = Some(error.message.as_str()).filter(|message| !message.trim().is_empty());
    let detail = describe_status(status, message.unwrap_or(&words));
    failure(&sign, detail).with_provider_message(message)
}

fn failure(sign: &str, detail: String) -> Failure {
    Failure::new(table::class(DIALECT, sign), detail)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use common::catalog::Catalog;
    use reqwest::StatusCode;
    use reqwest::header::{HeaderMap, RETRY_AFTER};
    use serde_json::json;

    use super::super::golden;
    use super::*;

    fn refusal(status: u16, body: &Value) -> Failure {
        refused(&Received {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::from_iter([(RETRY_AFTER, "7".parse().unwrap())]),
            body: ExtractedBody::of(body.to_string()),
        })
    }

    fn found(answer: &str) -> Result<String, Failure> {
        match read(&ExtractedBody::of(answer)).and_then(|(picture, _)| picture)? {
            Picture::Here(bytes) => Ok(String::from_utf8(bytes.to_vec()).unwrap()),
            Picture::At(address) => Ok(address),
        }
    }

    #[test]
    fn a_picture_is_in_the_answer_or_at_an_address() {
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
    fn an_error_in_a_success_is_classified_as_with_the_status_it_should_have() {
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
                assert!(failure.plain_words().ends_with("The model said: No."));
            }
        }
        let nameless = json!({"error": {"type": "server_error"}});
        assert_eq!(
            found(&nameless.to_string()).unwrap_err().detail,
            "HTTP 200: server_error"
        );
    }

    #[test]
    fn only_the_server_itself_is_asked_for_a_picture() {
        let base_url = Url::parse("http://127.0.0.1:8000").unwrap();
        let own = |address| own_address(&base_url, address).map(|url| url.to_string());
        for address in ["http://127.0.0.1:8000/files/a.png?x=1", "/files/a.png?x=1"] {
            assert_eq!(
                own(address).unwrap(),
                "http://127.0.0.1:8000/files/a.png?x=1"
            );
        }
        for elsewhere in [
            "http://127.0.0.1:8001/a.png",
            "https://127.0.0.1:8000/a.png",
            "http://169.254.169.254/latest/meta-data",
            "//example.com/a.png",
            "http://127.0.0.1:8000@example.com/a.png",
            "file:///etc/passwd",
            "data:image/png;base64,b25l",
            "http://",
        ] {
            assert_eq!(own(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn the_word_of_an_error_is_more_exact_than_its_status() {
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
    fn an_error_is_told_in_the_shapes_servers_have() {
        let refused = refusal(
            400,
            &json!({"error": {"message": "Your request was rejected.", "code": "moderation_blocked"}}),
        );
        assert!(
            refused
                .plain_words()
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
            assert_eq!(busy.plain_words(), Class::Throttled.plain_words());
            assert_eq!(busy.retry_after, Some(Duration::from_secs(7)));
        }
    }

    #[test]
    fn the_nearest_shape_that_is_large_enough_is_asked_for() {
        let catalog = golden::catalog();
        let mut model = catalog.get("gpt-image-2").unwrap().clone();
        let asked = |model: &Model, ratio, of| {
            let Pixels { width, height } = size(model, ratio, of);
            (width, height)
        };
        assert_eq!(asked(&model, AspectRatio::R4x5, Size::TwoK), (1856, 2304));
        let sides = [
            (512, 512),
            (1024, 1024),
            (2048, 2048),
            (512, 768),
            (1024, 1536),
            (1536, 1024),
        ];
        model.pixels = Vec::from(sides.map(|(width, height)| Pixels { width, height }));
        for (ratio, of, expected) in [
            (AspectRatio::Square, Size::OneK, (1024, 1024)),
            (AspectRatio::Square, Size::TwoK, (2048, 2048)),
            (AspectRatio::R2x3, Size::OneK, (1024, 1536)),
            (AspectRatio::R2x3, Size::TwoK, (1024, 1536)),
            (AspectRatio::R9x16, Size::OneK, (1024, 1536)),
            (AspectRatio::R21x9, Size::OneK, (1536, 1024)),
        ] {
            assert_eq!(asked(&model, ratio, of), expected, "{ratio} {of}");
        }
    }

    #[test]
    fn a_server_of_ones_own_is_described_by_a_file() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples");
        let catalog = Catalog::load(Some(Path::new(folder)), None).unwrap();
        let provider = catalog.providers().next().unwrap();
        assert_eq!(
            (provider.name.as_str(), provider.dialect),
            ("local", DIALECT)
        );
        let memory = crate::memory::within(0, 0);
        let account = |fake| ProviderSettings {
            provider,
            project: None,
            fake,
            idle: Duration::from_secs(1),
            memory: &memory,
        };
        assert!(OpenAi::new(&account(None)).unwrap().key.is_none());
        assert!(OpenAi::new(&account(Some("http://127.0.0.1:1"))).is_ok());

        let model = catalog.models().next().unwrap();
        let body = golden::request(model, &[], Body::of);
        let Body::Generation(fields) = body else {
            panic!("a picture from words")
        };
        assert_eq!(fields["seed"], 7);
        assert_eq!(fields["size"], "1024x1536");
        assert_eq!(fields["response_format"], "b64_json");
        assert_eq!(fields["steps"], 28);
    }
}

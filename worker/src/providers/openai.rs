//! The client of OpenAI images, and of self-hosted servers with the same API. Each call has one
//! answer and no operation.
//!
//! Such servers differ in small ways. Each difference is a field in the catalogue: `base_url`,
//! `pixels`, `seed`, `extra`. If an answer holds the URL of an image instead of the image, the
//! image is downloaded, but only from the server itself.

mod answer;
mod request;
mod wire;

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use domain::catalog::Tokens;
use domain::outcome::Failure;
use futures::future::{BoxFuture, FutureExt};
use reqwest::{RequestBuilder, Url};
use secrecy::{ExposeSecret, SecretString};

use super::http::{ExtractedBody, Http, Timeouts};
use super::{Answer, CallRequest, Provider, ProviderSettings, Reply};
use answer::{DIALECT, ImageSource, ParsedAnswer};
use wire::Usage;

pub(super) use request::Body;
#[cfg(test)]
pub(super) use wire::Part;

const BASE_URL: &str = "https://api.openai.com";
/// The variable that holds the API key, unless the catalogue names another variable.
const KEY_VARIABLE: &str = "OPENAI_API_KEY";
/// The longest id of an answer that is stored, in bytes.
const MAX_ID_LENGTH: usize = 500;

/// The client of a provider with the dialect `openai`.
pub struct OpenAi {
    http: Http,
    base_url: Url,
    /// `None` for a self-hosted server that needs no key.
    key: Option<SecretString>,
}

impl OpenAi {
    /// Builds the client.
    ///
    /// # Errors
    ///
    /// Returns an error if the API key is missing, or if the `base_url` is not a URL with a host.
    pub fn new(settings: &ProviderSettings<'_>) -> anyhow::Result<Self> {
        let provider = settings.provider;
        // A self-hosted server may need no key, and must never get the one that is meant for
        // OpenAI.
        let needs_no_key = provider.base_url.is_some() && provider.api_key.is_none();
        let key = if needs_no_key && settings.fake.is_none() {
            None
        } else {
            Some(settings.required_key(KEY_VARIABLE)?)
        };
        let base_url = settings.base_url().unwrap_or_else(|| BASE_URL.to_owned());
        let base_url = Url::parse(&base_url)
            .ok()
            .filter(Url::has_host)
            .with_context(|| {
                format!(
                    "the base_url of provider {} is not a URL with a host; write a URL such as http://127.0.0.1:8000",
                    provider.name
                )
            })?;
        Ok(Self {
            http: Http::new(settings)?,
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

    /// Makes the call, and converts its answer.
    async fn call(&self, mut request: CallRequest<'_>) -> Result<Answer, Failure> {
        let base_url = self.base_url.as_str().trim_end_matches('/');
        let body = Body::from_request(&request);
        let url = format!("{base_url}{}", body.path());
        // The body has its own references to the files, so that each file can be dropped once it is
        // sent.
        request.inputs.clear();
        let (timeout, permit) = request.into_timeout_and_permit();
        let post = match body {
            Body::Generation(fields) => self.http.post_json(&url, &fields, permit),
            Body::Edit(parts) => {
                let form = request::form(parts, permit)?;
                self.http.post(&url).multipart(form)
            }
        };
        let timeouts = Timeouts::for_generation(timeout);
        let received = self.http.exchange(self.authorize(post), timeouts).await;
        let received = received.map_err(|error| error.into_failure(DIALECT))?;
        let request_id = received.header("x-request-id");
        let mut answer = if received.status.is_success() {
            self.convert(received.body, timeout).await
        } else {
            Answer::failed(answer::http_failure(&received))
        };
        answer.provider_request_id = request_id.filter(|id| id.len() <= MAX_ID_LENGTH);
        Ok(answer)
    }

    /// Converts a successful answer. It holds an image, the URL of an image, or the reason why
    /// there is none.
    async fn convert(&self, body: ExtractedBody, timeout: Duration) -> Answer {
        let ParsedAnswer { image, usage } = answer::parse(&body);
        // The download below may wait for memory, and must hold none while it waits.
        drop(body);
        let image = match image {
            Ok(ImageSource::Inline(image)) => Ok(image),
            Ok(ImageSource::Url(url)) => self.download(&url, timeout).await,
            Err(failure) => Err(failure),
        };
        let billed: Usage = (usage.as_ref())
            .and_then(|usage| serde::Deserialize::deserialize(usage).ok())
            .unwrap_or_default();
        Answer {
            image,
            provider_request_id: None,
            usage,
            tokens: Tokens {
                input: billed.input_tokens.max(0),
                thought: 0,
            },
        }
    }

    /// Downloads an image that the server made. If the download fails, the answer counts as invalid
    /// and not as free, because the provider made the image and may bill it.
    async fn download(&self, image_url: &str, timeout: Duration) -> Result<Bytes, Failure> {
        let url = url_at_provider(&self.base_url, image_url).ok_or_else(|| {
            let detail =
                "the image is at a URL that is not the server's own, so it was not downloaded";
            answer::failure("elsewhere", detail.to_owned())
        })?;
        let get = self.http.get(url.as_str());
        let timeouts = Timeouts::for_get(timeout);
        let problem = match self.http.download(self.authorize(get), timeouts).await {
            Ok((status, file)) if status.is_success() => return Ok(file),
            Ok((status, _)) => format!("HTTP {}", status.as_u16()),
            Err(error) => error.into_failure(DIALECT).detail,
        };
        let detail = format!("the image could not be downloaded from its URL: {problem}");
        Err(answer::failure("elsewhere", detail))
    }
}

impl Provider for OpenAi {
    fn submit<'a>(&'a self, request: CallRequest<'a>) -> BoxFuture<'a, Reply> {
        async move {
            let answer = self.call(request).await;
            Reply::Answered(answer.unwrap_or_else(Answer::failed))
        }
        .boxed()
    }
}

/// The absolute form of an image's URL. Returns `None` if the URL is not on the server itself: an
/// answer must not make us send a request, with our key, to any other host.
fn url_at_provider(base_url: &Url, image_url: &str) -> Option<Url> {
    let url = base_url.join(image_url).ok()?;
    (url.origin() == base_url.origin()).then_some(url)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use domain::catalog::Catalog;

    use super::super::golden;
    use super::*;

    #[test]
    fn images_are_fetched_only_from_the_server_itself() {
        let base_url = Url::parse("http://127.0.0.1:8000").unwrap();
        let own = |url| url_at_provider(&base_url, url).map(|url| url.to_string());
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
    fn a_self_hosted_server_is_described_by_a_file() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples");
        let catalog = Catalog::load(Some(Path::new(folder)), None).unwrap();
        let provider = catalog.providers().next().unwrap();
        assert_eq!(
            (provider.name.as_str(), provider.dialect),
            ("local", DIALECT)
        );
        let memory = crate::memory::within(0, 0);
        let settings = |fake| ProviderSettings {
            provider,
            project: None,
            fake,
            idle: Duration::from_secs(1),
            memory: &memory,
        };
        assert!(OpenAi::new(&settings(None)).unwrap().key.is_none());
        assert!(OpenAi::new(&settings(Some("http://127.0.0.1:1"))).is_ok());

        let model = catalog.models().next().unwrap();
        let body = golden::request(model, &[], Body::from_request);
        let Body::Generation(fields) = body else {
            panic!("a request without input images")
        };
        assert_eq!(fields["seed"], 7);
        assert_eq!(fields["size"], "1024x1536");
        assert_eq!(fields["response_format"], "b64_json");
        assert_eq!(fields["steps"], 28);
    }
}

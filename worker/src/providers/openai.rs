//! OpenAI images, and self-hosted servers with the same API: one call, one answer, no operation.
//!
//! Such servers differ in small ways. Each difference is a field in the catalogue: `base_url`,
//! `pixels`, `seed`, `extra`. An image that is answered by its address is fetched, but only from
//! the server itself.

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
/// The variable that holds the key, unless the catalogue names another.
const KEY_VARIABLE: &str = "OPENAI_API_KEY";
/// The longest id of an answer that is stored, in bytes.
const MAX_ID_LENGTH: usize = 500;

/// The client of a provider with the dialect `openai`.
pub struct OpenAi {
    http: Http,
    base_url: Url,
    key: Option<SecretString>,
}

impl OpenAi {
    /// Builds the client.
    ///
    /// # Errors
    ///
    /// Fails when the key is missing, or the `base_url` is no URL with a host.
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
                    "the base_url of provider {} is no URL with a host; write one such as http://127.0.0.1:8000",
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

    async fn call(&self, mut request: CallRequest<'_>) -> Result<Answer, Failure> {
        let base_url = self.base_url.as_str().trim_end_matches('/');
        let body = Body::of(&request);
        let url = format!("{base_url}{}", body.path());
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

    /// Converts a successful answer: it holds an image, or the address of one, or why there is
    /// none.
    async fn convert(&self, body: ExtractedBody, timeout: Duration) -> Answer {
        let ParsedAnswer { image, usage } = answer::parse(&body);
        // The download below may wait for memory, and must hold none while it waits.
        drop(body);
        let image = match image {
            Ok(ImageSource::Inline(image)) => Ok(image),
            Ok(ImageSource::Address(address)) => self.download(&address, timeout).await,
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

    /// Downloads an image that the server made. A failure always makes the answer invalid, and
    /// never free: the image was made, and perhaps billed.
    async fn download(&self, address: &str, timeout: Duration) -> Result<Bytes, Failure> {
        let url = own_address(&self.base_url, address).ok_or_else(|| {
            let detail =
                "the picture is at an address that is not the server's own, so it was not fetched";
            answer::failure("elsewhere", detail.to_owned())
        })?;
        let get = self.http.get(url.as_str());
        let timeouts = Timeouts::for_poll(timeout);
        let problem = match self.http.download(self.authorize(get), timeouts).await {
            Ok((status, file)) if status.is_success() => return Ok(file),
            Ok((status, _)) => format!("HTTP {}", status.as_u16()),
            Err(error) => error.into_failure(DIALECT).detail,
        };
        let detail = format!("the picture could not be fetched from its address: {problem}");
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

/// The absolute URL of an image, if it is on the server itself. An answer must not send us, and
/// never our key, to any other host.
fn own_address(base_url: &Url, address: &str) -> Option<Url> {
    let url = base_url.join(address).ok()?;
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
        let body = golden::request(model, &[], Body::of);
        let Body::Generation(fields) = body else {
            panic!("a request without input images")
        };
        assert_eq!(fields["seed"], 7);
        assert_eq!(fields["size"], "1024x1536");
        assert_eq!(fields["response_format"], "b64_json");
        assert_eq!(fields["steps"], 28);
    }
}

//! HTTP with identity providers: small JSON documents, with limits on time and size.
//!
//! The addresses come from operators, and from documents of providers that operators chose.

use std::time::Duration;

use reqwest::header::{ACCEPT, AGE, CACHE_CONTROL, CONTENT_TYPE, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use url::Url;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The time for a whole exchange. People wait for it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read, in bytes. Large key sets with certificates have 30 KiB.
const MAX_BODY_BYTES: usize = 256 << 10;

/// The HTTP client for identity providers. Clones share its connections.
#[derive(Clone, Debug)]
pub struct IdentityHttp {
    client: Client,
    allows_plain_http: bool,
}

/// Why a provider gave no document.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The provider cannot be reached, is too slow, or the answer breaks off.
    #[error("no answer: {0}")]
    NoAnswer(reqwest::Error),
    /// The status is not a success.
    #[error("the status is {0}")]
    Status(StatusCode),
    /// The answer is too large.
    #[error("the answer has more than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// The answer is not the JSON that is expected.
    #[error("the answer cannot be read: {0}")]
    Unreadable(serde_json::Error),
    /// The document says something that we do not accept.
    #[error("{0}")]
    Unusable(String),
}

/// A document and how long it may be kept.
pub(super) struct Fetched<T> {
    pub(super) document: T,
    /// What the headers of the answer say; `None` if they say nothing.
    pub(super) max_age: Option<Duration>,
}

impl IdentityHttp {
    /// Builds the client. `allows_plain_http` is for fakes and emulators on this machine: without it
    /// only `https` addresses are called.
    ///
    /// # Errors
    /// Returns an error if TLS cannot be set up.
    pub fn new(allows_plain_http: bool) -> reqwest::Result<Self> {
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            // A redirect could lead to an address that no operator chose.
            .redirect(Policy::none())
            .https_only(!allows_plain_http)
            .user_agent(concat!("platen/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            client,
            allows_plain_http,
        })
    }

    /// Parses the address of a provider, or of ours to which a provider sends browsers.
    ///
    /// # Errors
    /// Returns an error if it is not a URL, if its scheme is neither `https` nor, where that is
    /// allowed, `http`, or if it has a user, a password or a fragment.
    pub(super) fn parse_address(&self, address: &str) -> Result<Url, FetchError> {
        let unusable = |why| FetchError::Unusable(format!("{address:?} {why}"));
        let url = Url::parse(address).map_err(|_| unusable("is not a URL"))?;
        let is_allowed = match url.scheme() {
            "https" => true,
            "http" => self.allows_plain_http,
            _ => false,
        };
        if !is_allowed {
            return Err(unusable("is not a URL of an allowed scheme: use https"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(unusable("has a user or a fragment"));
        }
        Ok(url)
    }

    /// Gets a document.
    ///
    /// # Errors
    /// Returns an error if there is no answer in time, or not one that can be read.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        url: Url,
    ) -> Result<Fetched<T>, FetchError> {
        let (status, headers, body) = exchange(self.client.get(url)).await?;
        if !status.is_success() {
            return Err(FetchError::Status(status));
        }
        Ok(Fetched {
            document: serde_json::from_slice(&body).map_err(FetchError::Unreadable)?,
            max_age: max_age(&headers),
        })
    }

    /// Posts a form, with a name and a password if they are given. Returns the status and the
    /// answer.
    ///
    /// # Errors
    /// Returns an error if there is no answer in time, or one that is too large.
    pub(super) async fn post_form(
        &self,
        url: Url,
        form: String,
        basic: Option<(String, String)>,
    ) -> Result<(StatusCode, Vec<u8>), FetchError> {
        let mut request = (self.client.post(url))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        if let Some((name, password)) = basic {
            request = request.basic_auth(name, Some(password));
        }
        let (status, _, body) = exchange(request).await?;
        Ok((status, body))
    }
}

async fn exchange(request: RequestBuilder) -> Result<(StatusCode, HeaderMap, Vec<u8>), FetchError> {
    // The address is not repeated in errors: a query may hold something personal.
    let no_answer = |error: reqwest::Error| FetchError::NoAnswer(error.without_url());
    let response = request.header(ACCEPT, "application/json").send().await;
    let mut response: Response = response.map_err(no_answer)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok((
        response.status(),
        std::mem::take(response.headers_mut()),
        body,
    ))
}

/// How long an answer may be kept (RFC 9111, 5.2.2): `max-age` less the time that it spent in caches
/// on its way.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(CACHE_CONTROL)?.to_str().ok()?;
    let mut max_age = None;
    for directive in text.split(',').map(str::trim) {
        if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache")
        {
            return Some(Duration::ZERO);
        }
        if let Some((name, value)) = directive.split_once('=')
            && name.eq_ignore_ascii_case("max-age")
        {
            max_age = value.trim_matches('"').parse().ok();
        }
    }
    let age = headers
        .get(AGE)
        .and_then(|age| age.to_str().ok()?.parse().ok());
    Some(Duration::from_secs(max_age?).saturating_sub(Duration::from_secs(age.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn an_answer_is_kept_for_its_max_age() {
        for (cache_control, age, expected) in [
            ("max-age=300", "", Some(300)),
            (
                "public, max-age=19302, must-revalidate, no-transform",
                "",
                Some(19_302),
            ),
            ("Public, MAX-AGE=\"60\"", "", Some(60)),
            ("max-age=300", "100", Some(200)),
            ("max-age=300", "400", Some(0)),
            ("max-age=300", "long", Some(300)),
            ("no-store", "", Some(0)),
            ("max-age=300, no-cache", "", Some(0)),
            ("private", "", None),
            ("max-age=soon", "", None),
            ("max-age=-1", "", None),
            ("s-maxage=300", "", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
            if !age.is_empty() {
                headers.insert(AGE, HeaderValue::from_static(age));
            }
            let expected = expected.map(Duration::from_secs);
            assert_eq!(max_age(&headers), expected, "{cache_control} {age}");
        }
        assert_eq!(max_age(&HeaderMap::new()), None);
    }

    #[test]
    fn only_https_addresses_are_called() {
        let check = |allows: bool, address: &str| {
            let http = IdentityHttp::new(allows).unwrap();
            http.parse_address(address).is_ok()
        };
        assert!(check(false, "https://issuer.example/jwks"));
        assert!(!check(false, "http://issuer.example/jwks"));
        assert!(check(true, "http://127.0.0.1:9099/jwks"));
        for address in [
            "file:///etc/passwd",
            "ftp://issuer.example",
            "https://ada@issuer.example",
            "https://issuer.example/#jwks",
            "issuer.example",
            "",
        ] {
            assert!(!check(true, address), "{address}");
        }
    }
}

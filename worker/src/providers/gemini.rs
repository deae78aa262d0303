//! The client of the Gemini Developer API, which is `generateContent` with an API key instead of a
//! project, and without the fields that only Vertex AI takes.

use domain::outcome::table::Dialect;
use futures::future::{BoxFuture, FutureExt};

use super::google::Credentials;
use super::http::Http;
use super::{CallRequest, Provider, ProviderSettings, Reply, generate_content};

/// The base URL of the Developer API, which serves Interactions too.
pub(super) const BASE_URL: &str = "https://generativelanguage.googleapis.com";
/// The variable that holds the API key, unless the catalogue names another variable.
pub(super) const KEY_VARIABLE: &str = "GEMINI_API_KEY";

/// The client of a provider with the dialect `gemini`.
pub struct Gemini {
    http: Http,
    base_url: String,
    credentials: Credentials,
}

impl Gemini {
    /// Builds the client.
    ///
    /// # Errors
    ///
    /// Returns an error if the API key is missing.
    pub fn new(settings: &ProviderSettings<'_>) -> anyhow::Result<Self> {
        Ok(Self {
            http: Http::new(settings)?,
            base_url: settings.base_url().unwrap_or_else(|| BASE_URL.to_owned()),
            credentials: Credentials::Key(settings.required_key(KEY_VARIABLE)?),
        })
    }
}

impl Provider for Gemini {
    fn submit<'a>(&'a self, request: CallRequest<'a>) -> BoxFuture<'a, Reply> {
        async move {
            let model = &request.model.name;
            let url = format!("{}/v1beta/models/{model}:generateContent", self.base_url);
            let body = generate_content::Body::for_gemini(&request);
            let answer = generate_content::submit(
                &self.http,
                Dialect::Gemini,
                &self.credentials,
                &url,
                body,
                request,
            );
            Reply::Answered(answer.await)
        }
        .boxed()
    }
}

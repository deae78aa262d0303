//! The Gemini Developer API: `generateContent` by key instead of project, without what only Vertex AI takes.

use common::outcome::table::Dialect;
use futures::future::{BoxFuture, FutureExt};

use super::google::Credentials;
use super::http::Http;
use super::{PictureRequest, Provider, ProviderSettings, Reply, generate_content};

/// The address of the Developer API, Interactions included.
pub(super) const BASE_URL: &str = "https://generativelanguage.googleapis.com";
/// The variable that holds its key, unless the catalogue names another.
pub(super) const KEY: &str = "GEMINI_API_KEY";

/// A provider of the dialect `gemini`.
pub struct Gemini {
    http: Http,
    base_url: String,
    credentials: Credentials,
}

impl Gemini {
    pub fn new(account: &ProviderSettings<'_>) -> anyhow::Result<Self> {
        Ok(Self {
            http: Http::new(account)?,
            base_url: account.base_url().unwrap_or_else(|| BASE_URL.to_owned()),
            credentials: Credentials::Key(account.needed_key(KEY)?),
        })
    }
}

impl Provider for Gemini {
    fn submit<'a>(&'a self, request: PictureRequest<'a>) -> BoxFuture<'a, Reply> {
        async move {
            let model = &request.model.name;
            let url = format!("{}/v1beta/models/{model}:generateContent", self.base_url);
            let body = generate_content::Body::for_developers(&request);
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

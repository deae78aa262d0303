//! A provider that gives the same answer to every call: the one that the fake makes for the first call. So a proof with thousands
//! of large images does not wait for the fake to draw them.

use axum::Router;
use axum::http::{HeaderMap, Uri, header};
use bytes::Bytes;
use fakes::Fake;
use reqwest::{Body, Client};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::models;

/// The media type of the answer.
pub const JSON: &str = "application/json; charset=UTF-8";

/// The answer to every call.
pub struct OneAnswer {
    /// The URL of the fake that answers the first call.
    fake: String,
    client: Client,
    answer: OnceCell<Bytes>,
}

impl OneAnswer {
    /// The fake is asked at the first call.
    pub fn of(fake: &Fake) -> Self {
        Self {
            fake: fake.base_url(),
            client: Client::builder().build().unwrap(),
            answer: OnceCell::new(),
        }
    }

    /// The answer. If this is the first call, the fake is asked with this request.
    ///
    /// # Panics
    ///
    /// The fake does not answer with success.
    pub async fn get(&self, uri: &Uri, headers: &HeaderMap, body: impl Into<Body>) -> Bytes {
        let answer = self.answer.get_or_init(async || {
            let mut request = self.client.post(format!("{}{uri}", self.fake));
            for name in [header::AUTHORIZATION, header::CONTENT_TYPE] {
                request = request.header(&name, &headers[&name]);
            }
            let answer = request.body(body).send().await.unwrap();
            assert!(answer.status().is_success(), "{answer:?}");
            answer.bytes().await.unwrap()
        });
        answer.await.clone()
    }

    /// How many bytes the answer has.
    ///
    /// # Panics
    ///
    /// No call was made yet.
    pub fn bytes(&self) -> usize {
        self.answer.get().expect("a call was made").len()
    }
}

/// Serves a provider until the returned set is dropped. In the catalogue it takes the place of the fake at Vertex AI.
pub async fn serve(
    provider: Router,
    catalogue: &TempDir,
    fake: &Fake,
) -> JoinSet<std::io::Result<()>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = |url: &str| format!("base_url = \"{url}\"");
    let url = format!("http://{}", listener.local_addr().unwrap());
    models::change(
        catalogue,
        "vertex.toml",
        &base(&fake.base_url()),
        &base(&url),
    );
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, provider).await });
    serving
}

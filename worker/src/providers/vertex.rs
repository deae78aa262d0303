//! Google Vertex AI: where it answers and who we are there. What is said is [`super::generate_content`].
//!
//! What the answer comes to is settled in [`common::settlement`], which is where to read next.

use anyhow::Context;
use common::catalog::Lane;
use common::outcome::Class;
use common::outcome::table::Dialect;
use futures::future::{BoxFuture, FutureExt};

use super::google::Credentials;
use super::http::Http;
use super::{PictureRequest, Provider, ProviderSettings, Reply, generate_content};

/// A provider of the dialect `vertex`.
pub struct Vertex {
    http: Http,
    base_url: Option<String>,
    project: String,
    credentials: Credentials,
}

impl Vertex {
    pub fn new(account: &ProviderSettings<'_>) -> anyhow::Result<Self> {
        let (project, credentials) = if account.fake.is_some() {
            ("synthetic", Credentials::AnyToken)
        } else {
            let project = account
                .project
                .context("GOOGLE_CLOUD_PROJECT is missing: the project whose Vertex AI this worker calls; only `platen up` may start a fake in its place")?;
            (project, Credentials::of_service_account()?)
        };
        Ok(Self {
            http: Http::new(account)?,
            base_url: account.base_url(),
            project: project.to_owned(),
            credentials,
        })
    }

    fn url(&self, request: &PictureRequest<'_>) -> String {
        let Lane {
            project, location, ..
        } = request.lane;
        let host = self.base_url.clone().unwrap_or_else(|| host(location));
        format!(
            "{host}/v1/projects/{}/locations/{location}/publishers/google/models/{}:generateContent",
            project.as_ref().unwrap_or(&self.project),
            request.model.name
        )
    }
}

/// Jurisdictions have endpoints of their own; `global` promises no residency.
fn host(location: &str) -> String {
    match location {
        "global" => "https://aiplatform.googleapis.com".to_owned(),
        "us" | "eu" => format!("https://aiplatform.{location}.rep.googleapis.com"),
        region => format!("https://{region}-aiplatform.googleapis.com"),
    }
}

impl Provider for Vertex {
    fn submit<'a>(&'a self, request: PictureRequest<'a>) -> BoxFuture<'a, Reply> {
        async move {
            let url = self.url(&request);
            let body = generate_content::Body::for_vertex(&request);
            let answer = generate_content::submit(
                &self.http,
                Dialect::Vertex,
                &self.credentials,
                &url,
                body,
                request,
            )
            .await;
            if answer.class() == Class::Unauthenticated {
                self.credentials.renew();
            }
            Reply::Answered(answer)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_decides_who_answers() {
        assert_eq!(host("global"), "https://aiplatform.googleapis.com");
        assert_eq!(host("eu"), "https://aiplatform.eu.rep.googleapis.com");
        assert_eq!(
            host("us-central1"),
            "https://us-central1-aiplatform.googleapis.com"
        );
    }
}

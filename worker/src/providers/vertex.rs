//! The client of Google Vertex AI: addresses and credentials. Requests and answers are in
//! [`super::generate_content`].
//!
//! The outcome of a call is settled in [`common::settlement`]; read that next.

use anyhow::Context;
use domain::catalog::Lane;
use domain::outcome::Class;
use domain::outcome::table::Dialect;
use futures::future::{BoxFuture, FutureExt};

use super::google::Credentials;
use super::http::Http;
use super::{CallRequest, Provider, ProviderSettings, Reply, generate_content};

/// The client of a provider with the dialect `vertex`.
pub struct Vertex {
    http: Http,
    /// `None` if the lane's location decides the base URL.
    base_url: Option<String>,
    /// The project of lanes that name none.
    project: String,
    credentials: Credentials,
}

impl Vertex {
    /// Builds the client.
    ///
    /// # Errors
    ///
    /// Returns an error if the project or Google's credentials are missing.
    pub fn new(settings: &ProviderSettings<'_>) -> anyhow::Result<Self> {
        let (project, credentials) = if settings.fake.is_some() {
            ("synthetic", Credentials::AnyToken)
        } else {
            let project = settings
                .project
                .context("GOOGLE_CLOUD_PROJECT is missing: the project whose Vertex AI this worker calls; only `platen up` may start a fake in its place")?;
            (project, Credentials::from_environment()?)
        };
        Ok(Self {
            http: Http::new(settings)?,
            base_url: settings.base_url(),
            project: project.to_owned(),
            credentials,
        })
    }

    /// The URL of the request's model, in the project and location of the request's lane.
    fn url(&self, request: &CallRequest<'_>) -> String {
        let Lane {
            project, location, ..
        } = request.lane;
        let base_url = self.base_url.clone();
        let base_url = base_url.unwrap_or_else(|| location_base_url(location));
        format!(
            "{base_url}/v1/projects/{}/locations/{location}/publishers/google/models/{}:generateContent",
            project.as_ref().unwrap_or(&self.project),
            request.model.name
        )
    }
}

/// The base URL for a location. The jurisdictions `us` and `eu` have endpoints of their own, which keep
/// data there. The location `global` promises no data residency.
fn location_base_url(location: &str) -> String {
    match location {
        "global" => "https://aiplatform.googleapis.com".to_owned(),
        "us" | "eu" => format!("https://aiplatform.{location}.rep.googleapis.com"),
        region => format!("https://{region}-aiplatform.googleapis.com"),
    }
}

impl Provider for Vertex {
    fn submit<'a>(&'a self, request: CallRequest<'a>) -> BoxFuture<'a, Reply> {
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
            // The token may have been revoked before it expired.
            if answer.class() == Class::Unauthenticated {
                self.credentials.reset();
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
    fn a_location_decides_the_host() {
        assert_eq!(
            location_base_url("global"),
            "https://aiplatform.googleapis.com"
        );
        assert_eq!(
            location_base_url("eu"),
            "https://aiplatform.eu.rep.googleapis.com"
        );
        assert_eq!(
            location_base_url("us-central1"),
            "https://us-central1-aiplatform.googleapis.com"
        );
    }
}

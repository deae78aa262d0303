//! Google's `generateContent` for images, on Vertex AI and on the Gemini Developer API.
//!
//! Paths, JSON, limits, sizes and errors are Google's. Only the image is not Google's, and a text in the image says so.
//! The image is drawn from the prompt and the input images of the request, so that a person sees that both arrived. The
//! same request gives the same image.
//!
//! Read next: `request` for what is accepted, `answer` for the replies.

mod answer;
mod request;
mod schema;
mod wire;

use super::{
    call::{self, Creation, Errors, IncomingRequest, Vendor, blocking},
    fault::Fault,
    faults::{CallPlan, Refusal},
    google::{ApiError, Host, Model},
    journal::Entry,
    reply::Reply,
    service::Service,
};
use axum::{
    http::{HeaderMap, Method},
    response::Response,
};
use futures::{FutureExt, future::BoxFuture};
use request::ImageRequest;
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// The paths of both hosts that end in `:generateContent`.
#[derive(Debug)]
pub(super) struct GenerateContent;

impl Vendor for GenerateContent {
    fn serves(&self, method: &Method, path: &str) -> bool {
        method == Method::POST && Target::parse(path).is_some()
    }

    fn answer(
        self: Arc<Self>,
        service: Service,
        incoming: IncomingRequest,
    ) -> BoxFuture<'static, Response> {
        async move {
            let target = Target::parse(&incoming.path).expect("`serves` has accepted the path");
            let raw = incoming.raw.clone();
            let (entry, generation) = blocking(move || {
                let body = serde_json::from_slice(&raw);
                let parsed = body.as_ref().unwrap_or(&Value::Null);
                let entry = Entry::from_json(target.model(), parsed);
                let body = body.map_err(|error| error.to_string());
                (entry, Generation { target, body })
            })
            .await;
            call::create(&service, incoming, entry, generation).await
        }
        .boxed()
    }
}

/// The parts of a path.
#[derive(Debug)]
struct Target {
    host: Host,
    /// `v1` or `v1beta1` on Vertex AI, `v1` or `v1beta` on the Developer API.
    version: String,
    /// `projects/…/models/{model}` or `models/{model}`, as Google's messages name it.
    resource: String,
}

impl Target {
    /// Parses `/{v1|v1beta1}/projects/{project}/locations/{location}/publishers/google/models/{model}:generateContent`
    /// and `/{v1|v1beta}/models/{model}:generateContent`. Returns `None` for any other path.
    fn parse(path: &str) -> Option<Self> {
        let (version, rest) = path.strip_prefix('/')?.split_once('/')?;
        let resource = rest.strip_suffix(":generateContent")?;
        let segments: Vec<&str> = resource.split('/').collect();
        let host = match (version, &segments[..]) {
            (
                "v1" | "v1beta1",
                [
                    "projects",
                    project,
                    "locations",
                    location,
                    "publishers",
                    "google",
                    "models",
                    model,
                ],
            ) if !(project.is_empty() || location.is_empty() || model.is_empty()) => Host::Vertex,
            ("v1" | "v1beta", ["models", model]) if !model.is_empty() => Host::Gemini,
            _ => return None,
        };
        Some(Self {
            host,
            version: version.to_owned(),
            resource: resource.to_owned(),
        })
    }

    fn model(&self) -> &str {
        (self.resource.rsplit('/').next()).unwrap_or(&self.resource)
    }
}

/// One call to `generateContent`.
struct Generation {
    target: Target,
    /// The body, or the reason why it is not JSON.
    body: Result<Value, String>,
}

impl Errors for Generation {
    fn status_error(&self, code: u16, retry_after: Option<Duration>) -> Reply {
        let Target { host, resource, .. } = &self.target;
        host.status_error(code, resource, retry_after).into_reply()
    }

    /// Vertex AI sends no retry hint.
    fn over_limit(&self, wait: Duration) -> Reply {
        self.status_error(429, (self.target.host == Host::Gemini).then_some(wait))
    }

    fn no_quota(&self) -> Reply {
        ApiError::no_quota(&self.target.resource).into_reply()
    }

    fn invalid(&self, sentence: String) -> Reply {
        ApiError::invalid(sentence).into_reply()
    }
}

impl Creation for Generation {
    type ImageRequest = ImageRequest;

    fn vendor(&self) -> &'static str {
        match self.target.host {
            Host::Vertex => "vertex",
            Host::Gemini => "gemini",
        }
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<(), Reply> {
        (self.target.host.authorize(headers)).map_err(ApiError::into_reply)
    }

    fn read(&self) -> Result<ImageRequest, Reply> {
        let model = Model::find(self.target.model()).ok_or_else(|| self.status_error(404, None))?;
        let body = self
            .body
            .as_ref()
            .map_err(|error| self.invalid(format!("Invalid JSON payload received. {error}")))?;
        ImageRequest::read(self.target.host, &self.target.version, model, body)
            .map_err(ApiError::into_reply)
    }

    fn prompt(request: &ImageRequest) -> &str {
        &request.prompt
    }

    fn supports(&self, fault: &Fault) -> bool {
        fault.is_common()
            || matches!(
                fault,
                Fault::FailedPrecondition
                    | Fault::Finish(_)
                    | Fault::Block(_)
                    | Fault::TextOnly
                    | Fault::OnlyThought
            )
    }

    fn refusal(&self, refusal: Refusal) -> Fault {
        match refusal {
            Refusal::Prompt => Fault::Block("PROHIBITED_CONTENT".to_owned()),
            Refusal::Image => Fault::Finish("IMAGE_SAFETY".to_owned()),
        }
    }

    fn answer(&self, request: ImageRequest, plan: CallPlan) -> Reply {
        answer::reply(&request, &plan)
    }
}

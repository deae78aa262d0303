//! Google's Interactions API for images, on the Gemini Developer API and on Vertex AI.
//!
//! A caller waits for an interaction, or lets it run in the background and polls it. The fake keeps interactions in
//! memory. With `background` the reply comes at once, and the work ends after the fake's latency.
//!
//! Read next: `request` for what is accepted, `store` for what is kept, `answer` for the replies.

mod answer;
mod error;
mod request;
mod store;
mod wire;

use super::{
    call::{self, Creation, Errors, IncomingRequest, Vendor, blocking},
    fault::Fault,
    faults::{CallPlan, Refusal},
    google::{ApiError, Host},
    journal::Entry,
    reply::Reply,
    service::Service,
};
use axum::{
    http::{HeaderMap, Method},
    response::Response,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::{FutureExt, future::BoxFuture};
use request::ImageRequest;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use store::{LookupResult, Store};

const VENDOR: &str = "interactions";

/// The paths of the Interactions API on both hosts.
#[derive(Debug, Default)]
pub(super) struct Interactions {
    store: Arc<Store>,
}

/// What a request asks for.
enum Action {
    /// A new interaction.
    Create,
    /// What the verb says, with the existing interaction that has this id.
    OnInteraction(String, Verb),
}

/// What to do with an existing interaction.
enum Verb {
    Get,
    Cancel,
    Delete,
}

/// Parses `/{v1|v1beta}/interactions…` and `/v1beta1/projects/{project}/locations/{location}/interactions…`.
fn parse(method: &Method, path: &str) -> Option<(Host, Action)> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let (host, rest) = match &segments[..] {
        ["v1" | "v1beta", "interactions", rest @ ..] => (Host::Gemini, rest),
        [
            "v1beta1",
            "projects",
            _,
            "locations",
            _,
            "interactions",
            rest @ ..,
        ] => (Host::Vertex, rest),
        _ => return None,
    };
    let action = match (method, rest) {
        (&Method::POST, []) => Action::Create,
        (&Method::GET, [id]) => Action::OnInteraction((*id).to_owned(), Verb::Get),
        (&Method::POST, [id, "cancel"]) => Action::OnInteraction((*id).to_owned(), Verb::Cancel),
        (&Method::DELETE, [id]) => Action::OnInteraction((*id).to_owned(), Verb::Delete),
        _ => return None,
    };
    Some((host, action))
}

impl Vendor for Interactions {
    fn serves(&self, method: &Method, path: &str) -> bool {
        parse(method, path).is_some()
    }

    fn answer(
        self: Arc<Self>,
        service: Service,
        incoming: IncomingRequest,
    ) -> BoxFuture<'static, Response> {
        async move {
            let (host, action) =
                parse(&incoming.method, &incoming.path).expect("`serves` has accepted the path");
            let (id, verb) = match action {
                Action::Create => return self.create(service, incoming, host).await,
                Action::OnInteraction(id, verb) => (id, verb),
            };
            let reply = async {
                if let Err(error) = host.authorize(&incoming.headers) {
                    return error.into_list();
                }
                match verb {
                    Verb::Get => self.poll(&service, &incoming, host, &id).await,
                    Verb::Cancel => self.cancel(&id),
                    Verb::Delete => self.delete(&id),
                }
            };
            call::answer_other(&service, &incoming, VENDOR, reply).await
        }
        .boxed()
    }
}

impl Interactions {
    /// Answers a call that creates an interaction.
    async fn create(&self, service: Service, incoming: IncomingRequest, host: Host) -> Response {
        let id = format!("v1_{}", BASE64_URL_SAFE_NO_PAD.encode(call::unique()));
        let store = Arc::clone(&self.store);
        let raw = incoming.raw.clone();
        let (entry, creation) = blocking(move || {
            let body: Result<Value, _> = serde_json::from_slice(&raw);
            let parsed = body.as_ref().unwrap_or(&Value::Null);
            let model = parsed["model"].as_str().unwrap_or_default();
            let entry = Entry::from_json(model, parsed);
            let body = body.map_err(|error| error.to_string());
            let creation = InteractionCreation {
                host,
                body,
                id,
                store,
            };
            (entry, creation)
        })
        .await;
        call::create(&service, incoming, entry, creation).await
    }

    /// Answers a poll, or plays its fault.
    async fn poll(
        &self,
        service: &Service,
        incoming: &IncomingRequest,
        host: Host,
        id: &str,
    ) -> Reply {
        let marked = self.store.next_poll_fault(id);
        let fault = match &marked {
            Some(Fault::Gone) => Some(&Fault::Status(404)),
            Some(Fault::Poll(fault)) => Some(&**fault),
            _ => None,
        };
        let answer = async {
            if let Some(Fault::Late(milliseconds)) = fault {
                tokio::time::sleep(Duration::from_millis(*milliseconds)).await;
            }
            call::apply_fault(
                service,
                &incoming.connection,
                &PollErrors(host),
                fault,
                self.current_state(id),
            )
            .await
        };
        let reply = tokio::select! {
            reply = answer => reply,
            () = service.stop_signal.cancelled() => error::status_error(host, 503, None),
        };
        match &marked {
            Some(fault) => reply.with_outcome(fault.to_string()),
            None => reply,
        }
    }

    /// The reply with the interaction as it is now. If its work is due, the work is done first.
    async fn current_state(&self, id: &str) -> Reply {
        let result = match self.store.find(id) {
            LookupResult::NotFound => return error::no_such_interaction(),
            LookupResult::Working(work) => {
                return Reply::json(200, &answer::running_interaction(&work))
                    .with_outcome("in_progress");
            }
            LookupResult::Ended(result) => result,
            LookupResult::Due(work) => {
                let store = Arc::clone(&self.store);
                blocking(move || store.finish(&work)).await
            }
        };
        let reply = Reply::json(200, &result.body).with_outcome(&result.status);
        reply.with_image_hash(result.image_sha256.clone())
    }

    /// Cancels running work. An interaction that is canceled already gets the same answer again. If the work has ended
    /// in another way, or is due, the reply is an error.
    fn cancel(&self, id: &str) -> Reply {
        let result = match self.store.find(id) {
            LookupResult::NotFound => return error::no_such_interaction(),
            LookupResult::Working(work) => Some(self.store.cancel(&work)),
            LookupResult::Ended(result) => Some(result),
            LookupResult::Due(_) => None,
        };
        match result.filter(|result| result.status == "cancelled") {
            Some(result) => Reply::json(200, &result.body).with_outcome(&result.status),
            None => error::invalid("The interaction is over, so it cannot be cancelled."),
        }
    }

    fn delete(&self, id: &str) -> Reply {
        if self.store.forget(id) {
            Reply::json(200, &json!({}))
        } else {
            error::no_such_interaction()
        }
    }
}

/// The errors of a poll.
struct PollErrors(Host);

impl Errors for PollErrors {
    fn status_error(&self, code: u16, retry_after: Option<Duration>) -> Reply {
        error::status_error(self.0, code, retry_after)
    }

    fn no_quota(&self) -> Reply {
        error::no_quota()
    }

    fn invalid(&self, sentence: String) -> Reply {
        error::invalid(sentence)
    }
}

/// One call that creates an interaction.
struct InteractionCreation {
    host: Host,
    /// The body, or the reason why it is not JSON.
    body: Result<Value, String>,
    /// The id of the new interaction.
    id: String,
    store: Arc<Store>,
}

impl Errors for InteractionCreation {
    fn status_error(&self, code: u16, retry_after: Option<Duration>) -> Reply {
        let model = self
            .body
            .as_ref()
            .ok()
            .and_then(|body| body["model"].as_str());
        match (code, model) {
            (404, Some(model)) => error::no_such_model(model),
            _ => error::status_error(self.host, code, retry_after),
        }
    }

    fn no_quota(&self) -> Reply {
        error::no_quota()
    }

    fn invalid(&self, sentence: String) -> Reply {
        error::invalid(sentence)
    }
}

impl Creation for InteractionCreation {
    type ImageRequest = ImageRequest;

    fn vendor(&self) -> &'static str {
        VENDOR
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<(), Reply> {
        self.host.authorize(headers).map_err(ApiError::into_list)
    }

    fn read(&self) -> Result<ImageRequest, Reply> {
        let body = self.body.as_ref();
        let body = body.map_err(|error| self.invalid(format!("Invalid JSON: {error}.")))?;
        let request = ImageRequest::read(self.host, body)?;
        match &request.previous {
            Some(id) if matches!(self.store.find(id), LookupResult::NotFound) => {
                Err(error::no_such_interaction())
            }
            _ => Ok(request),
        }
    }

    fn prompt(request: &ImageRequest) -> &str {
        &request.prompt
    }

    fn supports(&self, fault: &Fault) -> bool {
        fault.is_common()
            || matches!(
                fault,
                Fault::FailedPrecondition
                    | Fault::TextOnly
                    | Fault::Interaction(_)
                    | Fault::Error(_)
                    | Fault::Elsewhere
                    | Fault::ContentBlocked
                    | Fault::ContentFiltered
                    | Fault::Poll(_)
                    | Fault::Gone
            )
    }

    fn refusal(&self, refusal: Refusal) -> Fault {
        match refusal {
            Refusal::Prompt => Fault::ContentBlocked,
            Refusal::Image => Fault::ContentFiltered,
        }
    }

    fn is_synchronous(request: &ImageRequest) -> bool {
        !request.background
    }

    fn answer(&self, request: ImageRequest, plan: CallPlan) -> Reply {
        if plan.fault == Some(Fault::FailedPrecondition) {
            return error::error(400, "failed_precondition", "Precondition check failed.");
        }
        let (background, stored, wants_image) =
            (request.background, request.store, request.wants_image);
        let work = Arc::new(answer::Work {
            id: self.id.clone(),
            created: answer::timestamp(),
            request,
            fault: plan.fault.clone(),
            style: plan.style,
        });
        if background {
            let reply = Reply::json(200, &answer::running_interaction(&work));
            self.store.keep_running(work, plan);
            return reply;
        }
        if let Some(refusal) = answer::refusal(plan.fault.as_ref()) {
            return refusal;
        }
        let result = Arc::new(answer::run(&work));
        let reply = Reply::json(200, &result.body).with_image_hash(result.image_sha256.clone());
        if stored {
            self.store.keep_ended(&self.id, result, plan.polls);
        }
        if wants_image {
            reply
        } else {
            reply.with_outcome("text")
        }
    }
}

//! Google's Interactions API for images, on the Gemini Developer API and on Vertex AI.
//!
//! An interaction may be waited for, or go on in the background and be polled; the fake keeps it in memory. With
//! `background` the reply comes at once, and the work is over when the fake's latency has passed.
//!
//! Read next: `request` for what is accepted, `kept` for what is remembered, `answer` for what is said.

mod answer;
mod error;
mod kept;
mod request;
mod wire;

use super::{
    call::{self, Creation, Errors, Incoming, Vendor, blocking},
    fault::Fault,
    faults::{Fate, Refusal},
    google::{ApiError, Host},
    journal::Entry,
    reply::Reply,
    server::Service,
};
use axum::{
    http::{HeaderMap, Method},
    response::Response,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::{FutureExt, future::BoxFuture};
use kept::{Found, Kept, Work};
use request::Ask;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

const VENDOR: &str = "interactions";

/// The paths of the Interactions API on both hosts.
#[derive(Debug, Default)]
pub(super) struct Interactions {
    kept: Arc<Kept>,
}

/// What a request wants of the interactions at its path.
enum Wish {
    Create,
    Of(String, Verb),
}

/// What can be done with an interaction.
enum Verb {
    Get,
    Cancel,
    Delete,
}

/// `/{v1|v1beta}/interactions…` or `/v1beta1/projects/{project}/locations/{location}/interactions…`, taken apart.
fn parse(method: &Method, path: &str) -> Option<(Host, Wish)> {
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
    let wish = match (method, rest) {
        (&Method::POST, []) => Wish::Create,
        (&Method::GET, [id]) => Wish::Of((*id).to_owned(), Verb::Get),
        (&Method::POST, [id, "cancel"]) => Wish::Of((*id).to_owned(), Verb::Cancel),
        (&Method::DELETE, [id]) => Wish::Of((*id).to_owned(), Verb::Delete),
        _ => return None,
    };
    Some((host, wish))
}

impl Vendor for Interactions {
    fn serves(&self, method: &Method, path: &str) -> bool {
        parse(method, path).is_some()
    }

    fn answer(
        self: Arc<Self>,
        service: Service,
        incoming: Incoming,
    ) -> BoxFuture<'static, Response> {
        async move {
            let (host, wish) =
                parse(&incoming.method, &incoming.path).expect("the path was looked at before");
            let (id, verb) = match wish {
                Wish::Create => return self.create(service, incoming, host).await,
                Wish::Of(id, verb) => (id, verb),
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
            call::attend(&service, &incoming, VENDOR, reply).await
        }
        .boxed()
    }
}

impl Interactions {
    async fn create(&self, service: Service, incoming: Incoming, host: Host) -> Response {
        let id = format!("v1_{}", BASE64_URL_SAFE_NO_PAD.encode(call::unique()));
        let kept = Arc::clone(&self.kept);
        let raw = incoming.raw.clone();
        let (entry, interaction) = blocking(move || {
            let body: Result<Value, _> = serde_json::from_slice(&raw);
            let told = body.as_ref().unwrap_or(&Value::Null);
            let model = told["model"].as_str().unwrap_or_default();
            let entry = Entry::of(model, told);
            let body = body.map_err(|error| error.to_string());
            let interaction = Interaction {
                host,
                body,
                id,
                kept,
            };
            (entry, interaction)
        })
        .await;
        call::create(&service, incoming, entry, interaction).await
    }

    /// Tells how an interaction stands.
    async fn poll(&self, service: &Service, incoming: &Incoming, host: Host, id: &str) -> Reply {
        let marked = self.kept.fault(id);
        let fault = match &marked {
            Some(Fault::Gone) => Some(&Fault::Status(404)),
            Some(Fault::Poll(fault)) => Some(&**fault),
            _ => None,
        };
        let answer = async {
            if let Some(Fault::Late(milliseconds)) = fault {
                tokio::time::sleep(Duration::from_millis(*milliseconds)).await;
            }
            call::meet(
                service,
                &incoming.connection,
                &Plain(host),
                fault,
                self.tell(id),
            )
            .await
        };
        let reply = tokio::select! {
            reply = answer => reply,
            () = service.stopping.cancelled() => error::of_status(host, 503, None),
        };
        match &marked {
            Some(fault) => reply.told(fault.to_string()),
            None => reply,
        }
    }

    async fn tell(&self, id: &str) -> Reply {
        let end = match self.kept.find(id) {
            Found::Nothing => return error::no_such_interaction(),
            Found::Working(work) => {
                return Reply::json(200, &answer::in_progress(&work)).told("in_progress");
            }
            Found::Ended(end) => end,
            Found::Due(work) => {
                let kept = Arc::clone(&self.kept);
                blocking(move || kept.settle(&work)).await
            }
        };
        let reply = Reply::json(200, &end.body).told(&end.status);
        reply.showing(end.picture.clone())
    }

    fn cancel(&self, id: &str) -> Reply {
        let end = match self.kept.find(id) {
            Found::Nothing => return error::no_such_interaction(),
            Found::Working(work) => Some(self.kept.cancel(&work)),
            Found::Ended(end) => Some(end),
            Found::Due(_) => None,
        };
        match end.filter(|end| end.status == "cancelled") {
            Some(end) => Reply::json(200, &end.body).told(&end.status),
            None => error::invalid("The interaction is over, so it cannot be cancelled."),
        }
    }

    fn delete(&self, id: &str) -> Reply {
        if self.kept.forget(id) {
            Reply::json(200, &json!({}))
        } else {
            error::no_such_interaction()
        }
    }
}

/// The errors of a poll.
struct Plain(Host);

impl Errors for Plain {
    fn of_status(&self, code: u16, hint: Option<Duration>) -> Reply {
        error::of_status(self.0, code, hint)
    }

    fn no_quota(&self) -> Reply {
        error::no_quota()
    }

    fn invalid(&self, sentence: String) -> Reply {
        error::invalid(sentence)
    }
}

/// One call that creates an interaction.
struct Interaction {
    host: Host,
    /// The body, or why it is no JSON.
    body: Result<Value, String>,
    id: String,
    kept: Arc<Kept>,
}

impl Errors for Interaction {
    fn of_status(&self, code: u16, hint: Option<Duration>) -> Reply {
        let model = self
            .body
            .as_ref()
            .ok()
            .and_then(|body| body["model"].as_str());
        match (code, model) {
            (404, Some(model)) => error::no_such_model(model),
            _ => error::of_status(self.host, code, hint),
        }
    }

    fn no_quota(&self) -> Reply {
        error::no_quota()
    }

    fn invalid(&self, sentence: String) -> Reply {
        error::invalid(sentence)
    }
}

impl Creation for Interaction {
    type Ask = Ask;

    fn vendor(&self) -> &'static str {
        VENDOR
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<(), Reply> {
        self.host.authorize(headers).map_err(ApiError::into_list)
    }

    fn read(&self) -> Result<Ask, Reply> {
        let body = self.body.as_ref();
        let body = body.map_err(|error| self.invalid(format!("Invalid JSON: {error}.")))?;
        let ask = Ask::read(self.host, body)?;
        match &ask.previous {
            Some(id) if matches!(self.kept.find(id), Found::Nothing) => {
                Err(error::no_such_interaction())
            }
            _ => Ok(ask),
        }
    }

    fn prompt(ask: &Ask) -> &str {
        &ask.scene.prompt
    }

    fn plays(&self, fault: &Fault) -> bool {
        fault.of_any_vendor()
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
            Refusal::Picture => Fault::ContentFiltered,
        }
    }

    fn waits(ask: &Ask) -> bool {
        !ask.background
    }

    fn answer(&self, ask: Ask, fate: Fate) -> Reply {
        if fate.fault == Some(Fault::FailedPrecondition) {
            return error::error(400, "failed_precondition", "Precondition check failed.");
        }
        let (background, store, wants_picture) = (ask.background, ask.store, ask.wants_picture);
        let work = Arc::new(Work {
            id: self.id.clone(),
            created: answer::timestamp(),
            ask,
            fault: fate.fault.clone(),
            look: fate.look,
        });
        if background {
            let reply = Reply::json(200, &answer::in_progress(&work));
            self.kept.begin(work, fate);
            return reply;
        }
        if let Some(refusal) = answer::refusal(fate.fault.as_ref()) {
            return refusal;
        }
        let end = Arc::new(answer::end(&work));
        let reply = Reply::json(200, &end.body).showing(end.picture.clone());
        if store {
            self.kept.end(&self.id, end, fate.polls);
        }
        if wants_picture {
            reply
        } else {
            reply.told("text")
        }
    }
}

//! `OpenAI` Images: `/v1/images/generations` and `/v1/images/edits`, and the servers that copy them.
//!
//! Models whose name begins with `local-` behave like such a server. They ignore fields that they do not know, report
//! no tokens, and answer with URLs of images that the fake serves.
//!
//! Read next: `request` for what is accepted, `error` for what is refused, `answer` for the replies.

mod answer;
mod downloads;
mod error;
mod form;
mod request;
mod shape;

use super::{
    call::{self, Creation, Errors, IncomingRequest, Vendor, bearer, blocking},
    fault::Fault,
    faults::{CallPlan, Refusal},
    journal::Entry,
    reply::Reply,
    service::Service,
};
use axum::{
    http::{HeaderMap, HeaderValue, Method, header::HOST},
    response::Response,
};
use downloads::Downloads;
use error::ApiError;
use form::Fields;
use futures::{FutureExt, future::BoxFuture};
use request::{ImageRequest, Verb};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The paths of the Images API, and of the images that a local server offers for download.
#[derive(Debug, Default)]
pub(super) struct OpenAi {
    downloads: Arc<Downloads>,
    /// How many requests there were. A request without a seed uses this number as its seed.
    requests: AtomicU64,
}

impl Vendor for OpenAi {
    fn serves(&self, method: &Method, path: &str) -> bool {
        match Verb::from_path(path) {
            Some(_) => method == Method::POST,
            None => method == Method::GET && downloads::name_in(path).is_some(),
        }
    }

    fn answer(
        self: Arc<Self>,
        service: Service,
        incoming: IncomingRequest,
    ) -> BoxFuture<'static, Response> {
        async move {
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let id = format!("req_{}", hex::encode(call::unique()));
            let mut response = match Verb::from_path(&incoming.path) {
                Some(verb) => {
                    let (entry, generation) = self.generation(verb, &incoming, number, &id).await;
                    call::create(&service, incoming, entry, generation).await
                }
                None => {
                    let download = async { self.downloads.serve(&incoming.path) };
                    call::answer_other(&service, &incoming, "openai", download).await
                }
            };
            let id = HeaderValue::from_str(&id).expect("an id is written in ASCII");
            response.headers_mut().insert("x-request-id", id);
            response
        }
        .boxed()
    }
}

impl OpenAi {
    /// Reads the fields of a request. Returns its entry in the journal, and the call.
    async fn generation(
        &self,
        verb: Verb,
        incoming: &IncomingRequest,
        number: u64,
        id: &str,
    ) -> (Entry, Generation) {
        let raw = incoming.raw.clone();
        let fields = match verb {
            Verb::Generate => blocking(move || Fields::from_json(&raw)).await,
            Verb::Edit => Fields::from_form(&incoming.headers, raw).await,
        };
        let read = fields.as_ref().ok().cloned();
        let entry = blocking(move || read.map(|fields| fields.entry())).await;
        let host = (incoming.headers.get(HOST)).and_then(|host| host.to_str().ok());
        let generation = Generation {
            verb,
            fields,
            base_url: format!("http://{}", host.unwrap_or("127.0.0.1")),
            downloads: Arc::clone(&self.downloads),
            number,
            id: id.to_owned(),
        };
        (entry.unwrap_or_default(), generation)
    }
}

/// One call that asks for images.
struct Generation {
    verb: Verb,
    fields: Result<Fields, ApiError>,
    /// The address under which the caller reached the fake.
    base_url: String,
    downloads: Arc<Downloads>,
    /// The seed of a request that has none.
    number: u64,
    /// The id of the request, which the header `x-request-id` has, too.
    id: String,
}

impl Generation {
    fn model(&self) -> &str {
        let fields = self.fields.as_ref().ok();
        fields
            .and_then(|fields| fields.optional_text("model"))
            .unwrap_or_default()
    }
}

impl Errors for Generation {
    fn status_error(&self, code: u16, retry_after: Option<Duration>) -> Reply {
        ApiError::from_status(code, self.model(), retry_after).to_reply()
    }

    fn no_quota(&self) -> Reply {
        ApiError::from_code("insufficient_quota", self.model(), &self.id).to_reply()
    }

    fn invalid(&self, sentence: String) -> Reply {
        ApiError::invalid(None, "invalid_value", sentence).to_reply()
    }
}

impl Creation for Generation {
    type ImageRequest = ImageRequest;

    fn vendor(&self) -> &'static str {
        "openai"
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<(), Reply> {
        match bearer(headers) {
            Some(_) => Ok(()),
            None => Err(ApiError::no_key().to_reply()),
        }
    }

    fn read(&self) -> Result<ImageRequest, Reply> {
        let fields = self.fields.as_ref().map_err(ApiError::to_reply)?;
        ImageRequest::read(self.verb, fields, self.number).map_err(|error| error.to_reply())
    }

    fn prompt(request: &ImageRequest) -> &str {
        &request.prompt
    }

    fn supports(&self, fault: &Fault) -> bool {
        let own = matches!(
            fault,
            Fault::Error(_)
                | Fault::Error200(_)
                | Fault::LongError(_)
                | Fault::Shape(_)
                | Fault::Elsewhere
        );
        own || fault.is_common()
    }

    fn refusal(&self, _: Refusal) -> Fault {
        Fault::Error("moderation_blocked".to_owned())
    }

    fn answer(&self, request: ImageRequest, plan: CallPlan) -> Reply {
        match &plan.fault {
            Some(Fault::Error(code)) => {
                ApiError::from_code(code, self.model(), &self.id).to_reply()
            }
            Some(Fault::Error200(code)) => {
                ApiError::from_code(code, self.model(), &self.id).to_reply_with_status_200()
            }
            Some(Fault::LongError(code)) => {
                ApiError::from_code(code, self.model(), &self.id).to_long_reply()
            }
            Some(Fault::BadBase64) if request.answers_with_url => self.invalid(
                "The fake cannot play the fault 'bad_base64' in an answer without base64: ask for b64_json.".to_owned(),
            ),
            _ => answer::reply(request, &plan, &self.downloads, &self.base_url),
        }
    }
}

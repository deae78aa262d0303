//! Google Vertex AI, image generation: `…/publishers/google/models/{model}:generateContent`.
//!
//! Paths, JSON, limits, pixel sizes and errors are Google's; only the picture is not, and it says so. It is drawn from
//! the prompt and the photos of the request, so a person sees that both went in, and it is the same whenever the request
//! is. Under `/__fake/` the fake has what Google has not: its faults and its journal.
//!
//! Read next: `request` for what is accepted, `answer` for what is said, `picture` for what is drawn.

mod answer;
mod catalog;
mod faults;
mod journal;
mod picture;
mod request;
mod schema;

pub use faults::{Fault, Faults, Latency, REFUSED_WORDS, Switches, UnknownFault};
pub use journal::{Call, Journal};

use answer::ApiError;
use anyhow::Context;
use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Query, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use catalog::Model;
use futures::{StreamExt, stream};
use journal::Received;
use request::Ask;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// Fourteen pictures of 7 MB as base64, and room for words.
const MOST_BODY_BYTES: usize = 150 * 1024 * 1024;

/// How to start the fake.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// What calls meet from the start.
    pub switches: Switches,
}

/// A running fake. Dropping it stops it.
#[derive(Debug)]
pub struct Vertex {
    address: SocketAddr,
    service: Service,
    tasks: TaskTracker,
    stop: DropGuard,
}

impl Vertex {
    /// Binds 127.0.0.1 and serves from now on.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
            .await
            .with_context(|| format!("binding the fake Vertex AI to port {}", options.port))?;
        let address = listener.local_addr()?;
        let service = Service {
            journal: Journal::new(),
            faults: Faults::default(),
            stopping: CancellationToken::new(),
        };
        service.faults.set(options.switches);
        let tasks = TaskTracker::new();
        let app = service.clone().router();
        let stopping = service.stopping.clone();
        tasks.spawn(async move {
            let server =
                axum::serve(listener, app).with_graceful_shutdown(stopping.cancelled_owned());
            if let Err(error) = server.await {
                tracing::error!(%error, "The fake Vertex AI stopped by itself");
            }
        });
        tasks.close();
        let stop = service.stopping.clone().drop_guard();
        Ok(Self {
            address,
            service,
            tasks,
            stop,
        })
    }

    /// `http://127.0.0.1:<port>`, in place of `https://aiplatform.googleapis.com`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked.
    pub fn journal(&self) -> Journal {
        self.service.journal.clone()
    }

    /// What it should do wrong.
    pub fn faults(&self) -> Faults {
        self.service.faults.clone()
    }

    /// Stops taking calls, ends those that hang or wait, and returns when the others are answered.
    pub async fn stop(self) {
        drop(self.stop);
        self.tasks.wait().await;
    }
}

#[derive(Clone, Debug)]
struct Service {
    journal: Journal,
    faults: Faults,
    stopping: CancellationToken,
}

impl Service {
    fn router(self) -> Router {
        Router::new()
            .route("/__fake/faults", get(get_faults).put(put_faults))
            .route("/__fake/journal", get(get_journal).delete(clear_journal))
            // Google's paths end in `{model}:{verb}`, which is no path segment a router could match.
            .fallback(call)
            .layer(DefaultBodyLimit::max(MOST_BODY_BYTES))
            .with_state(self)
    }
}

/// `{v1|v1beta1}/projects/{project}/locations/{location}/publishers/google/models/{model}:{verb}`, taken apart.
struct Target<'a> {
    version: &'a str,
    /// `projects/…/models/{model}`, as Google's messages name it.
    resource: &'a str,
    model: &'a str,
}

impl<'a> Target<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let (version, rest) = path.strip_prefix('/')?.split_once('/')?;
        let (resource, verb) = rest.rsplit_once(':')?;
        let segments: Vec<&str> = resource.split('/').collect();
        match segments[..] {
            [
                "projects",
                project,
                "locations",
                location,
                "publishers",
                "google",
                "models",
                model,
            ] if matches!(version, "v1" | "v1beta1")
                && verb == "generateContent"
                && !(project.is_empty() || location.is_empty() || model.is_empty()) =>
            {
                Some(Self {
                    version,
                    resource,
                    model,
                })
            }
            _ => None,
        }
    }
}

/// How a call ends.
struct Reply {
    status: u16,
    body: Body,
    content_type: &'static str,
    outcome: String,
    picture: Option<String>,
}

async fn call(
    State(service): State<Service>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    raw: Bytes,
) -> Response {
    let Some(target) = Target::parse(uri.path()).filter(|_| method == Method::POST) else {
        return no_such_page(uri.path());
    };
    // Reading and drawing are work for a processor: not for the threads that serve sockets.
    let (version, model) = (target.version.to_owned(), target.model.to_owned());
    let (body, ask) = blocking({
        let raw = raw.clone();
        move || read(&version, &model, &raw)
    })
    .await;
    let number = service.journal.open(Received {
        method: method.to_string(),
        path: uri.path().to_owned(),
        model: target.model.to_owned(),
        body,
        raw,
    });
    let authorized = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .is_some_and(|token| !token.trim().is_empty());

    let reply = if !authorized {
        Reply::refused(&ApiError::no_credentials())
    } else {
        match ask {
            Err(Unread::NoSuchModel) => Reply::refused(&ApiError::of_status(404, target.resource)),
            Err(Unread::Refused(error)) => Reply::refused(&error),
            Ok(ask) => {
                let fault = service.faults.meet(&ask.prompt);
                let resource = target.resource.to_owned();
                let delay = service.faults.delay();
                let answer = async {
                    tokio::time::sleep(delay).await;
                    match fault {
                        Some(Fault::Hang) => std::future::pending().await,
                        fault => {
                            blocking(move || think(&ask, number, fault.as_ref(), &resource)).await
                        }
                    }
                };
                tokio::select! {
                    reply = answer => reply,
                    () = service.stopping.cancelled() => {
                        Reply::refused(&ApiError::of_status(503, target.resource))
                    }
                }
            }
        }
    };
    service
        .journal
        .close(number, reply.status, &reply.outcome, reply.picture.clone());
    reply.into_response()
}

/// Why a body gave no [`Ask`].
enum Unread {
    NoSuchModel,
    Refused(ApiError),
}

/// The body as JSON, null where it is none, and what it asks for.
fn read(version: &str, model: &str, raw: &[u8]) -> (Value, Result<Ask, Unread>) {
    let t=std::time::Instant::now();let body = serde_json::from_slice::<Value>(raw);eprintln!("json {:?}",t.elapsed());
    let Some(model) = Model::find(model) else {
        return (body.unwrap_or_default(), Err(Unread::NoSuchModel));
    };
    match body {
        Ok(body) => {
            let ask = Ask::read(model, version, &body).map_err(Unread::Refused);
eprintln!("read {:?}",t.elapsed());            (body, ask)
        }
        Err(error) => {
            let message = format!("Invalid JSON payload received. {error}");
            (
                Value::Null,
                Err(Unread::Refused(ApiError::invalid(message))),
            )
        }
    }
}

/// The reply to a valid request, good or as the fault has it.
fn think(ask: &Ask, number: u64, fault: Option<&Fault>, resource: &str) -> Reply {
    let outcome = match fault {
        Some(fault) => fault.to_string(),
        None if ask.wants_picture => "ok".to_owned(),
        None => "text".to_owned(),
    };
    let mut sha256 = None;
    let mut body = match fault {
        Some(Fault::Status(502) | Fault::NotJson) => {
            let status = if fault == Some(&Fault::NotJson) {
                200
            } else {
                502
            };
            return Reply {
                status,
                body: Body::from(error_page(
                    status,
                    "The server encountered a temporary error and could not complete your request.",
                )),
                content_type: "text/html; charset=UTF-8",
                outcome,
                picture: None,
            };
        }
        Some(Fault::Status(code)) => {
            let error = ApiError::of_status(*code, resource);
            return Reply {
                outcome,
                ..Reply::refused(&error)
            };
        }
        Some(Fault::FailedPrecondition) => {
            let error = ApiError {
                code: 400,
                status: "FAILED_PRECONDITION",
                message: "Precondition check failed.".to_owned(),
            };
            return Reply {
                outcome,
                ..Reply::refused(&error)
            };
        }
        Some(Fault::Empty) => return Reply::json(200, &json!({}), outcome),
        Some(Fault::Finish(reason)) => answer::finished(ask, reason),
        Some(Fault::Block(reason)) => answer::blocked(ask, reason),
        Some(Fault::TextOnly) => answer::text_only(ask),
        None if !ask.wants_picture => answer::text_only(ask),
        fault => {
            let flaw = fault.and_then(Fault::flaw);
            let (body, hash) = answer::picture(ask, flaw);
            sha256 = Some(hash);
            body
        }
    };
    body["modelVersion"] = ask.model.id.into();
    body["createTime"] = now().into();
    body["responseId"] = response_id(number, &body).into();
    let reply = Reply {
        picture: sha256,
        ..Reply::json(200, &body, outcome)
    };
    if fault == Some(&Fault::Cut) {
        return Reply {
            body: cut(body.to_string()),
            ..reply
        };
    }
    reply
}

impl Reply {
    fn json(status: u16, body: &Value, outcome: String) -> Self {
        Self {
            status,
            body: Body::from(body.to_string()),
            content_type: "application/json; charset=UTF-8",
            outcome,
            picture: None,
        }
    }

    fn refused(error: &ApiError) -> Self {
        Self::json(error.code, &error.body(), "refused_request".to_owned())
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (
            status,
            [(header::CONTENT_TYPE, self.content_type)],
            self.body,
        )
            .into_response()
    }
}

/// Half of a body, then a connection that breaks.
fn cut(whole: String) -> Body {
    let mut half = Bytes::from(whole);
    half.truncate(half.len() / 2);
    let breaks = stream::once(async {
        // Long enough for the half to leave; without it the headers would be lost as well.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(io::Error::other("cut by the fake"))
    });
    Body::from_stream(stream::iter([Ok(half)]).chain(breaks))
}

/// Google's front end answers a path it does not serve with a page, not with JSON.
fn no_such_page(path: &str) -> Response {
    let page = error_page(
        404,
        &format!(
            "The requested URL <code>{}</code> was not found on this server.",
            path.replace('<', "&lt;")
        ),
    );
    (StatusCode::NOT_FOUND, Html(page)).into_response()
}

fn error_page(code: u16, sentence: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=en>\n<title>Error {code}</title>\n<p><b>{code}.</b> <ins>That's an error.</ins>\n<p>{sentence}\n"
    )
}

/// Unlike anything else in a reply, different each time.
fn response_id(number: u64, body: &Value) -> String {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

    let digest = Sha256::new()
        .chain_update(number.to_be_bytes())
        .chain_update(body["createTime"].to_string())
        .finalize();
    BASE64_URL_SAFE_NO_PAD.encode(&digest[..16])
}

#[expect(
    clippy::disallowed_methods,
    reason = "the vendor has a clock of its own; nobody's deadline hangs on it"
)]
fn now() -> String {
    let now = time::OffsetDateTime::from(std::time::SystemTime::now());
    now.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("reading and drawing do not panic, and the runtime outlives its server")
}

async fn get_faults(State(service): State<Service>) -> Json<Switches> {
    Json(service.faults.get())
}

async fn put_faults(
    State(service): State<Service>,
    Json(switches): Json<Switches>,
) -> Json<Switches> {
    service.faults.set(switches);
    Json(service.faults.get())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JournalQuery {
    /// Only the latest so many calls.
    last: Option<usize>,
}

async fn get_journal(
    State(service): State<Service>,
    Query(query): Query<JournalQuery>,
) -> Json<Value> {
    let calls = service.journal.calls();
    let skipped = calls.len().saturating_sub(query.last.unwrap_or(1000));
    let shown: Vec<&Call> = calls[skipped..].iter().map(AsRef::as_ref).collect();
    Json(json!({"count": calls.len(), "outcomes": service.journal.outcomes(), "calls": shown}))
}

async fn clear_journal(State(service): State<Service>) -> StatusCode {
    service.journal.clear();
    StatusCode::NO_CONTENT
}

//! One call, from the path to the reply.

use super::{
    Service,
    answer::{self, ApiError},
    catalog::Model,
    fault::Fault,
    journal::Received,
    reply::{self, Reply},
    request::Ask,
};
use axum::{
    extract::State,
    http::{HeaderMap, Method, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Every path that is not the fake's own: Google's one path, or nothing.
pub(super) async fn call(
    State(service): State<Service>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    raw: Bytes,
) -> Response {
    let Some(target) = Target::parse(uri.path()).filter(|_| method == Method::POST) else {
        return reply::no_such_page(uri.path());
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

/// Why a body gave no [`Ask`].
enum Unread {
    NoSuchModel,
    Refused(ApiError),
}

/// The body as JSON, null where it is none, and what it asks for.
fn read(version: &str, model: &str, raw: &[u8]) -> (Value, Result<Ask, Unread>) {
    let body = serde_json::from_slice::<Value>(raw);
    let Some(model) = Model::find(model) else {
        return (body.unwrap_or_default(), Err(Unread::NoSuchModel));
    };
    match body {
        Ok(body) => {
            let ask = Ask::read(model, version, &body).map_err(Unread::Refused);
            (body, ask)
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
            return Reply::page(status, outcome);
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
            body: reply::cut(body.to_string()),
            ..reply
        };
    }
    reply
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

//! What every request gets: an id, a span, a time limit, a measurement, and its problem written out.
//!
//! Neither prompt nor key is ever in a span.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use common::id::RequestId;
use common::telemetry::HTTP_SECONDS;
use common::telemetry::traces::{self, TraceParent};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::app::App;
use crate::error::{Code, Problem};

/// The header that carries the request's id, both ways.
pub const ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest time for an answer; `Prefer: wait` takes at most 60 seconds of it.
const TIME_LIMIT: Duration = Duration::from_secs(70);

/// Bytes of a body that need a second more.
const BYTES_PER_SECOND: u64 = 64 * 1024;

/// The id of one request: the client's own where it is well formed, else one of ours.
#[derive(Clone, Debug)]
pub struct Id(pub Arc<str>);

impl Id {
    fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get(ID).and_then(|value| value.to_str().ok());
        match sent {
            Some(id) if well_formed(id) => Self(id.into()),
            _ => Self(RequestId::new().to_string().into()),
        }
    }
}

fn well_formed(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// The outermost layer.
pub async fn answer(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = Id::of(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    request.extensions_mut().insert(id.clone());

    let span =
        tracing::info_span!("request", request.id = %id.0, http.route = %route, tenant = Empty);
    let parent = traceparent(request.headers());
    // Probes would drown the rest.
    let trace = if route.starts_with("/v1/") {
        traces::request(method.as_str(), &route, parent.as_ref())
    } else {
        Span::none()
    };
    if let Some(place) = traces::current(&trace).or(parent) {
        request.extensions_mut().insert(place);
    }
    let mut response = next
        .run(request)
        .instrument(span.clone())
        .instrument(trace.clone())
        .await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = written(response, &problem, &id, &path);
    }
    let headers = response.headers_mut();
    headers.insert(
        ID,
        HeaderValue::from_str(&id.0).expect("a well-formed id is a header"),
    );
    // Balances and signed links are nothing for caches.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    if app.stopping.is_cancelled() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }

    let response = forbid_sniffing(response).await;

    let elapsed = started.elapsed();
    let status = response.status();
    traces::record_status(&trace, status.as_u16());
    HTTP_SECONDS
        .with_label_values(&[label(&method), route.as_str(), status.as_str()])
        .observe(elapsed.as_secs_f64());
    span.in_scope(|| {
        let duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let status = status.as_u16();
        // What changes something is told; what is only read would drown it.
        if method == Method::POST {
            tracing::info!(
                status,
                duration_ms,
                "Answered {method} {route} with {status}"
            );
        } else {
            tracing::debug!(
                status,
                duration_ms,
                "Answered {method} {route} with {status}"
            );
        }
    });
    response
}

/// No browser takes the bytes for something else than their type says.
pub async fn forbid_sniffing(mut response: Response) -> Response {
    let nosniff = HeaderValue::from_static("nosniff");
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// A header that is none is nobody's trace, as W3C has it.
fn traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    let sent = headers.get(traces::HEADER)?.to_str().ok()?;
    sent.parse().ok()
}

/// The answer with its problem as body; what layers have added to its headers stays.
fn written(response: Response, problem: &Problem, id: &Id, path: &str) -> Response {
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    Response::from_parts(parts, Body::from(problem.body(&id.0, path).to_string()))
}

/// Methods are chosen by the client, and labels must be few.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Ends a request that takes too long, reading its body included, and one whose body comes too slowly.
pub async fn within_time(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let too_slow = Arc::new(AtomicBool::new(false));
    let request = request.map(|body| {
        if body.is_end_stream() {
            body
        } else {
            Body::new(TimedBody::new(body, app.ports.body, Arc::clone(&too_slow)))
        }
    });
    match tokio::time::timeout(TIME_LIMIT, next.run(request)).await {
        // Whatever the handler made of a body that broke off.
        Ok(_) if too_slow.load(Ordering::Relaxed) => Problem::new(
            Code::Timeout,
            "The body came too slowly: send it again, with the same Idempotency-Key.",
        )
        .into_response(),
        Ok(response) => response,
        Err(_) => Problem::from(Code::Timeout).into_response(),
    }
}

/// A body that breaks off when it comes too slowly: it has a time for itself, and more with each byte.
struct TimedBody {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    too_slow: Arc<AtomicBool>,
}

impl TimedBody {
    fn new(body: Body, time: Duration, too_slow: Arc<AtomicBool>) -> Self {
        Self {
            body,
            deadline: Box::pin(sleep(time)),
            too_slow,
        }
    }
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            if let Some(data) = frame
                .as_ref()
                .and_then(|frame| frame.as_ref().ok()?.data_ref())
            {
                let more = Duration::from_micros(data.len() as u64 * 1_000_000 / BYTES_PER_SECOND);
                let deadline = self.deadline.deadline() + more;
                self.deadline.as_mut().reset(deadline);
            }
            return Poll::Ready(frame);
        }
        ready!(self.deadline.as_mut().poll(context));
        self.too_slow.store(true, Ordering::Relaxed);
        let error = io::Error::from(io::ErrorKind::TimedOut);
        Poll::Ready(Some(Err(axum::Error::new(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_well_formed_id_is_kept_and_another_is_replaced() {
        let of = |sent: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ID, sent.parse().unwrap());
            Id::of(&headers).0
        };
        assert_eq!(&*of("abc-1_2"), "abc-1_2");
        for bad in ["", "a b", "a\tb", "é", &"a".repeat(65)] {
            assert!(of(bad).starts_with("req_"), "{bad}");
        }
        assert!(Id::of(&HeaderMap::new()).0.starts_with("req_"));
    }
}

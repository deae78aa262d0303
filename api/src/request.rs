//! The middleware around every request: its id, span, rate limits, time limit and metrics, and the body of its problem.
//!
//! Spans never hold a prompt or a key.

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
use domain::id;
use domain::traceparent::TraceParent;
use hyper::body::{Frame, SizeHint};
use telemetry::{HTTP_SECONDS, traces};
use tokio::time::{Instant, Sleep, sleep};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::app::App;
use crate::base_url::Connection;
use crate::client;
use crate::error::{Code, Problem};
use crate::rates::Client;

/// The header with the id of the request, in requests and in answers.
pub const ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest time from a request to its answer. `Prefer: wait` uses at most 60 seconds of it.
const TIME_LIMIT: Duration = Duration::from_secs(70);

/// The slowest rate at which a body may be sent, once its fixed time (`app.ports.body`) is used up.
const MIN_BYTES_PER_SECOND: u64 = 64 * 1024;

/// The id of one request: the id that the client sent if it is well formed, or else a new id.
#[derive(Clone, Debug)]
pub struct RequestId(
    /// 1 to 64 letters, digits, `_` and `-`.
    pub Arc<str>,
);

impl RequestId {
    fn from_headers(headers: &HeaderMap) -> Self {
        let sent = headers.get(ID).and_then(|value| value.to_str().ok());
        match sent {
            Some(id) if is_well_formed(id) => Self(id.into()),
            _ => Self(id::RequestId::new().to_string().into()),
        }
    }
}

fn is_well_formed(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// The outermost layer: gives the request an id and a span, writes the body of a problem, sets common headers, and measures the
/// time.
pub async fn finish_response(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = RequestId::from_headers(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    request.extensions_mut().insert(id.clone());

    let log_span =
        tracing::info_span!("request", request.id = %id.0, http.route = %route, tenant = Empty);
    let parent = traceparent(request.headers());
    // Probes are not traced, because there are so many of them that other traces would be hard to find.
    let trace_span = if route.starts_with("/v1/") {
        traces::request(method.as_str(), &route, parent.as_ref())
    } else {
        Span::none()
    };
    // A new job stores this `traceparent`, and its worker continues the trace.
    if let Some(traceparent) = traces::traceparent(&trace_span).or(parent) {
        request.extensions_mut().insert(traceparent);
    }
    let mut response = next
        .run(request)
        .instrument(log_span.clone())
        .instrument(trace_span.clone())
        .await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = write_problem(response, &problem, &id, &path);
    }
    let headers = response.headers_mut();
    headers.insert(
        ID,
        HeaderValue::from_str(&id.0).expect("a well-formed id is a header"),
    );
    // Balances and signed links must not be cached.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    if app.stopping.is_cancelled() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }

    let response = forbid_sniffing(response).await;

    let elapsed = started.elapsed();
    let status = response.status();
    traces::record_status(&trace_span, status.as_u16());
    HTTP_SECONDS
        .with_label_values(&[label(&method), route.as_str(), status.as_str()])
        .observe(elapsed.as_secs_f64());
    log_span.in_scope(|| {
        let duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let status = status.as_u16();
        // POST requests are logged as info. There are too many reads for that.
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

/// Sets `X-Content-Type-Options: nosniff`, so that browsers do not guess another type from the bytes.
pub async fn forbid_sniffing(mut response: Response) -> Response {
    let nosniff = HeaderValue::from_static("nosniff");
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// The span that the client names as its own. An invalid `traceparent` is ignored, as W3C Trace Context requires.
fn traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    let sent = headers.get(domain::traceparent::HEADER)?.to_str().ok()?;
    sent.parse().ok()
}

/// Writes a problem as the body of its answer. Headers that inner layers added stay.
fn write_problem(response: Response, problem: &Problem, id: &RequestId, path: &str) -> Response {
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    Response::from_parts(parts, Body::from(problem.body(&id.0, path).to_string()))
}

/// The metrics label of a method. A client may send any method, but there must be few labels. The few requests with PUT and DELETE
/// count as `other`.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The layer that counts the requests of each network, and writes the results of all limits to the answer (`RateLimit` headers).
/// Probes are never limited.
pub async fn limit_rate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    if matches!(request.uri().path(), "/livez" | "/readyz") {
        return next.run(request).await;
    }
    let connection = request.extensions().get::<Connection>();
    let address = connection
        .map(|connection| client::address(&app.public, connection.peer, request.headers()));
    let client = Client::new(address);
    request.extensions_mut().insert(client.clone());
    let mut response = match app.rates.admit_address(&client) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    client.write_headers(response.headers_mut());
    response
}

/// The layer that ends a request which takes longer than 70 seconds, including the time to read its body, or whose body is sent too
/// slowly.
pub async fn enforce_timeout(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let too_slow = Arc::new(AtomicBool::new(false));
    let request = request.map(|body| {
        if body.is_end_stream() {
            body
        } else {
            Body::new(TimedBody::new(body, app.ports.body, Arc::clone(&too_slow)))
        }
    });
    match tokio::time::timeout(TIME_LIMIT, next.run(request)).await {
        // The handler has seen a body that was cut off. Whatever it answered, the cause was the slow body.
        Ok(_) if too_slow.load(Ordering::Relaxed) => Problem::new(
            Code::Timeout,
            "The body was sent too slowly: send it again, with the same Idempotency-Key.",
        )
        .into_response(),
        Ok(response) => response,
        Err(_) => Problem::from(Code::Timeout).into_response(),
    }
}

/// A request's body that fails when it is sent too slowly. The client has a fixed time for it, and gets more time with each byte.
struct TimedBody {
    body: Body,
    /// If no more bytes have come by then, the body fails.
    deadline: Pin<Box<Sleep>>,
    /// Set when the deadline has passed.
    too_slow: Arc<AtomicBool>,
}

impl TimedBody {
    fn new(body: Body, fixed_time: Duration, too_slow: Arc<AtomicBool>) -> Self {
        Self {
            body,
            deadline: Box::pin(sleep(fixed_time)),
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
                let more =
                    Duration::from_micros(data.len() as u64 * 1_000_000 / MIN_BYTES_PER_SECOND);
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
    fn a_request_id_is_kept_only_if_it_is_well_formed() {
        let of = |sent: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ID, sent.parse().unwrap());
            RequestId::from_headers(&headers).0
        };
        assert_eq!(&*of("abc-1_2"), "abc-1_2");
        for bad in ["", "a b", "a\tb", "é", &"a".repeat(65)] {
            assert!(of(bad).starts_with("req_"), "{bad}");
        }
        assert!(
            RequestId::from_headers(&HeaderMap::new())
                .0
                .starts_with("req_")
        );
    }
}

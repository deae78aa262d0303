//! Builds replies: JSON, HTML pages, files, and bodies that break off or never end.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{AppendHeaders, Html, IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::Value;
use std::{io, time::Duration};
use tokio_util::sync::CancellationToken;

/// One chunk of the body of the fault `oversized`.
static FILLER: [u8; 64 * 1024] = [b'A'; 64 * 1024];
/// The length of the body of the fault `oversized`. The body has an end, so that a caller without a limit of its own
/// gets an error and does not use up the memory of the machine.
const MAX_FILLER_BYTES: usize = 256 * 1024 * 1024;

/// The reply to a call.
pub(super) struct Reply {
    pub(super) status: u16,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    delivery: Delivery,
    /// The outcome in the journal.
    pub(super) outcome: String,
    /// The SHA-256 of the first image, in hex.
    pub(super) image_sha256: Option<String>,
}

/// How a body is sent.
#[derive(Clone, Copy)]
pub(super) enum Delivery {
    /// The whole body at once.
    Whole,
    /// The first half, then the connection breaks.
    Cut,
    /// The first half, then nothing.
    Stalled,
    /// One byte every 100 ms, for ever.
    Trickling,
    /// A body of 256 MiB.
    Oversized,
}

impl Reply {
    /// A reply in JSON.
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self::raw_json(status, body.to_string())
    }

    /// A reply with this body, sent as JSON even if it is none.
    pub(super) fn raw_json(status: u16, body: String) -> Self {
        Self::new(status, "application/json; charset=UTF-8", body, "ok")
    }

    /// An error in the vendor's format. Its outcome is `refused_request`.
    pub(super) fn refused(status: u16, body: &Value) -> Self {
        Self::json(status, body).with_outcome("refused_request")
    }

    /// An HTML page in place of JSON.
    pub(super) fn page(status: u16) -> Self {
        let sentence =
            "The server encountered a temporary error and could not complete your request.";
        let page = error_page(status, sentence);
        Self::new(status, "text/html; charset=UTF-8", page, "ok")
    }

    /// A file.
    pub(super) fn file(content_type: &'static str, bytes: Bytes) -> Self {
        Self::new(200, content_type, bytes, "ok")
    }

    /// Sets the outcome in the journal.
    pub(super) fn with_outcome(mut self, outcome: impl Into<String>) -> Self {
        self.outcome = outcome.into();
        self
    }

    /// Sets the hash of the image for the journal.
    pub(super) fn with_image_hash(mut self, image_sha256: Option<String>) -> Self {
        self.image_sha256 = image_sha256;
        self
    }

    /// Sets how the body is sent.
    pub(super) fn with_delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }

    /// Adds a header.
    pub(super) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("headers are written in ASCII");
        self.headers.push((HeaderName::from_static(name), value));
        self
    }

    /// The HTTP response. Bodies without an end stop when the fake stops.
    pub(super) fn into_response(self, stop_signal: CancellationToken) -> Response {
        let half = self.body.slice(..self.body.len() / 2);
        let body = match self.delivery {
            Delivery::Whole => Body::from(self.body),
            // The connection breaks after a pause. If it broke at once, the headers and the first half would be lost,
            // too.
            Delivery::Cut => cut_after(half, tokio::time::sleep(Duration::from_millis(50))),
            Delivery::Stalled => cut_after(half, stop_signal.cancelled_owned()),
            Delivery::Trickling => {
                let byte = Bytes::from_static(b" ");
                Body::from_stream(stream::unfold(byte, move |byte| {
                    let stop_signal = stop_signal.clone();
                    async move {
                        tokio::select! {
                            () = tokio::time::sleep(Duration::from_millis(100)) => {
                                Some((Ok::<_, io::Error>(byte.clone()), byte))
                            }
                            () = stop_signal.cancelled() => None,
                        }
                    }
                }))
            }
            Delivery::Oversized => {
                let chunks = stream::repeat(Bytes::from_static(&FILLER))
                    .take(MAX_FILLER_BYTES / FILLER.len())
                    .take_until(stop_signal.cancelled_owned());
                Body::from_stream(chunks.map(Ok::<_, io::Error>))
            }
        };
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, AppendHeaders(self.headers), body).into_response()
    }

    fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>, outcome: &str) -> Self {
        Self {
            status,
            headers: vec![(CONTENT_TYPE, HeaderValue::from_static(content_type))],
            body: body.into(),
            delivery: Delivery::Whole,
            outcome: outcome.to_owned(),
            image_sha256: None,
        }
    }
}

/// A body of these bytes. When `time` completes, the connection breaks.
fn cut_after(bytes: Bytes, time: impl Future<Output = ()> + Send + 'static) -> Body {
    let breaks = stream::once(async move {
        time.await;
        Err(io::Error::other("cut by the fake"))
    });
    Body::from_stream(stream::iter([Ok(bytes)]).chain(breaks))
}

/// 404 for a method and path that no vendor serves: an HTML page, as Google's front end sends it.
pub(super) fn no_such_page(path: &str) -> Response {
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

/// The seconds for a `Retry-After` header, which has no fractions. They are rounded up, so that nobody comes back too
/// early.
pub(super) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

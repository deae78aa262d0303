//! Replies as they leave: JSON, pages, and bodies that break off or never end.

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

/// What a body that has no end is made of, and how much of it there is at most: a caller without a limit of its own
/// should end with an error, not take the machine with it.
static FILLER: [u8; 64 * 1024] = [b'A'; 64 * 1024];
const MOST_FILLER_BYTES: usize = 256 * 1024 * 1024;

/// How a call ends.
pub(super) struct Reply {
    pub(super) status: u16,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    manner: Manner,
    /// What the journal says of it.
    pub(super) outcome: String,
    /// The SHA-256 of the picture in it, in hex.
    pub(super) picture: Option<String>,
}

/// How a body is sent.
#[derive(Clone, Copy)]
pub(super) enum Manner {
    Whole,
    /// Half, then the connection breaks.
    Cut,
    /// Half, then nothing.
    Stalled,
    /// A byte every tenth of a second, for ever.
    Trickling,
    /// More than anybody takes.
    Oversized,
}

impl Reply {
    /// A reply in JSON.
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self::text(status, body.to_string())
    }

    /// A reply that calls itself JSON, to the letter.
    pub(super) fn text(status: u16, body: String) -> Self {
        Self::new(status, "application/json; charset=UTF-8", body, "ok")
    }

    /// An error of the vendor's own making.
    pub(super) fn refused(status: u16, body: &Value) -> Self {
        Self::json(status, body).told("refused_request")
    }

    /// A page in HTML where JSON was due.
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

    /// The same with another word for the journal.
    pub(super) fn told(mut self, outcome: impl Into<String>) -> Self {
        self.outcome = outcome.into();
        self
    }

    /// The same with the SHA-256 of the picture in it for the journal.
    pub(super) fn showing(mut self, picture: Option<String>) -> Self {
        self.picture = picture;
        self
    }

    /// The same, sent in another manner.
    pub(super) fn sent(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }

    /// The same with one more header.
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("headers are written in ASCII");
        self.headers.push((HeaderName::from_static(name), value));
        self
    }

    /// What goes out; bodies without end stop with the fake.
    pub(super) fn into_response(self, stopping: CancellationToken) -> Response {
        let half = self.body.slice(..self.body.len() / 2);
        let body = match self.manner {
            Manner::Whole => Body::from(self.body),
            // Not at once, or the half and the headers would be lost as well.
            Manner::Cut => until(half, tokio::time::sleep(Duration::from_millis(50))),
            Manner::Stalled => until(half, stopping.cancelled_owned()),
            Manner::Trickling => {
                let byte = Bytes::from_static(b" ");
                Body::from_stream(stream::unfold(byte, move |byte| {
                    let stopping = stopping.clone();
                    async move {
                        tokio::select! {
                            () = tokio::time::sleep(Duration::from_millis(100)) => {
                                Some((Ok::<_, io::Error>(byte.clone()), byte))
                            }
                            () = stopping.cancelled() => None,
                        }
                    }
                }))
            }
            Manner::Oversized => {
                let chunks = stream::repeat(Bytes::from_static(&FILLER))
                    .take(MOST_FILLER_BYTES / FILLER.len())
                    .take_until(stopping.cancelled_owned());
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
            manner: Manner::Whole,
            outcome: outcome.to_owned(),
            picture: None,
        }
    }
}

/// Some bytes, and when the time has come a connection that breaks.
fn until(bytes: Bytes, time: impl Future<Output = ()> + Send + 'static) -> Body {
    let breaks = stream::once(async move {
        time.await;
        Err(io::Error::other("cut by the fake"))
    });
    Body::from_stream(stream::iter([Ok(bytes)]).chain(breaks))
}

/// Google's front end answers a path it does not serve with a page, not with JSON.
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

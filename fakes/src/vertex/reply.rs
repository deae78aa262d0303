//! Replies as they leave: JSON, pages, and bodies that break off.

use super::answer::ApiError;
use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::Value;
use std::{io, time::Duration};

/// How a call ends.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Body,
    pub(super) content_type: &'static str,
    pub(super) outcome: String,
    pub(super) picture: Option<String>,
}

impl Reply {
    /// A reply in JSON.
    pub(super) fn json(status: u16, body: &Value, outcome: String) -> Self {
        Self {
            status,
            body: Body::from(body.to_string()),
            content_type: "application/json; charset=UTF-8",
            outcome,
            picture: None,
        }
    }

    /// An error of Google's own making.
    pub(super) fn refused(error: &ApiError) -> Self {
        Self::json(error.code, &error.body(), "refused_request".to_owned())
    }

    /// A page in HTML where JSON was due.
    pub(super) fn page(status: u16, outcome: String) -> Self {
        let sentence =
            "The server encountered a temporary error and could not complete your request.";
        Self {
            status,
            body: Body::from(error_page(status, sentence)),
            content_type: "text/html; charset=UTF-8",
            outcome,
            picture: None,
        }
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
pub(super) fn cut(whole: String) -> Body {
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

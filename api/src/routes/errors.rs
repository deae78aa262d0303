//! `/errors`: explains every error code. This module also has the answers to requests for which there is no route.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;

use crate::download::StaticContent;
use crate::error::{Code, Problem, Result};

/// List all error codes and what to do about each
#[utoipa::path(
    get,
    path = "/errors",
    operation_id = "list_errors",
    tag = "service",
    responses((status = 200, description = "Plain text with a paragraph for each code", body = String, content_type = "text/plain"))
)]
pub async fn list(headers: HeaderMap) -> Response {
    static PAGE: LazyLock<StaticContent> = LazyLock::new(|| {
        let text = Code::ALL.iter().fold(String::new(), |mut text, &code| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}", explanation(code));
            text
        });
        StaticContent::new("text/plain; charset=utf-8", text)
    });
    PAGE.respond(&headers)
}

/// Get what an error code means, and what to do about it
///
/// The `type` of every problem is the path of this page.
#[utoipa::path(
    get,
    path = "/errors/{code}",
    operation_id = "get_error",
    tag = "service",
    params(("code" = String, Path, description = "An error code, such as `invalid_request`")),
    responses(
        (status = 200, description = "The explanation, as plain text", body = String, content_type = "text/plain"),
        (status = 404, description = "There is no such code"),
    )
)]
pub async fn one(Path(text): Path<String>) -> Result<String> {
    Code::ALL
        .iter()
        .find(|code| code.as_str() == text)
        .map(|&code| explanation(code))
        .ok_or_else(|| Problem::new(Code::NotFound, "There is no such code: /errors lists them."))
}

fn explanation(code: Code) -> String {
    format!(
        "{} ({})\n{}.\n{}\n",
        code.as_str(),
        code.status().as_u16(),
        code.title(),
        code.advice()
    )
}

/// The answer to a path for which there is no route.
pub async fn no_such_route(uri: Uri) -> Problem {
    let path = uri.path();
    let detail = match path.trim_end_matches('/') {
        bare if bare != path && !bare.is_empty() => {
            format!("Paths here do not end with a slash: leave it out, as in {bare}.")
        }
        _ => "There is no such path: /openapi.json lists all paths.".to_owned(),
    };
    Problem::new(Code::NotFound, detail)
}

/// The answer to a method that the route does not support.
pub async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        format!(
            "{} does not support {method}: the Allow header names the methods it supports.",
            uri.path()
        ),
    )
}

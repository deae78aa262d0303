//! `/errors`: what every code means, and the answers to requests that meet no route.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;

use crate::download::StaticContent;
use crate::error::{Code, Problem, Result};

/// Every code, and what to do about it
#[utoipa::path(
    get,
    path = "/errors",
    operation_id = "list_errors",
    tag = "service",
    responses((status = 200, description = "Plain text, a paragraph for each code", body = String, content_type = "text/plain"))
)]
pub async fn list(asked: HeaderMap) -> Response {
    static PAGE: LazyLock<StaticContent> = LazyLock::new(|| {
        let text = Code::ALL.iter().fold(String::new(), |mut text, &code| {
            let _ = writeln!(text, "{}", explained(code));
            text
        });
        StaticContent::new("text/plain; charset=utf-8", text)
    });
    PAGE.respond(&asked)
}

/// What a code means, and what to do about it
///
/// Where the `type` of a problem leads.
#[utoipa::path(
    get,
    path = "/errors/{code}",
    operation_id = "get_error",
    tag = "service",
    params(("code" = String, Path, description = "A code, such as `invalid_request`")),
    responses(
        (status = 200, description = "Plain text", body = String, content_type = "text/plain"),
        (status = 404, description = "There is no such code"),
    )
)]
pub async fn one(Path(text): Path<String>) -> Result<String> {
    Code::ALL
        .iter()
        .find(|code| code.as_str() == text)
        .map(|&code| explained(code))
        .ok_or_else(|| Problem::new(Code::NotFound, "There is no such code: /errors lists them."))
}

fn explained(code: Code) -> String {
    format!(
        "{} ({})\n{}.\n{}\n",
        code.as_str(),
        code.status().as_u16(),
        code.title(),
        code.advice()
    )
}

/// The answer where there is no route.
pub async fn no_such_route(uri: Uri) -> Problem {
    let path = uri.path();
    let detail = match path.trim_end_matches('/') {
        bare if bare != path && !bare.is_empty() => {
            format!("Paths here do not end with a slash: leave it out, as in {bare}.")
        }
        _ => "There is no such path: /openapi.json lists those there are.".to_owned(),
    };
    Problem::new(Code::NotFound, detail)
}

/// The answer where there is a route, for other methods.
pub async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        format!(
            "{} does not take {method}: the Allow header names what it takes.",
            uri.path()
        ),
    )
}

//! Query strings: every parameter that is sent must be known, be sent once, and have a value that the contract allows.

use std::error::Error;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa::openapi::path::ParameterIn;

use super::expected::{expected, without_null};
use crate::error::{Code, Problem, sentence, truncate};

/// The longest query string, in bytes.
const MAX_QUERY_BYTES: usize = 8 * 1024;

/// The parameters of a query string. They are checked against what `T` declares in `/openapi.json`.
#[derive(Debug)]
pub struct Parameters<T>(
    /// The parsed parameters.
    pub T,
);

impl<T: DeserializeOwned + IntoParams, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        if query.len() > MAX_QUERY_BYTES {
            let detail = format!("The query is too long: at most {MAX_QUERY_BYTES} bytes.");
            return Err(Problem::new(Code::InvalidQuery, detail));
        }
        // Most requests have no query, and making the list takes some time.
        let known = if query.is_empty() {
            Vec::new()
        } else {
            known::<T>()
        };
        let Query(sent) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| Problem::new(Code::InvalidQuery, "The query cannot be read."))?;
        for (index, (name, _)) in sent.iter().enumerate() {
            if !known.iter().any(|parameter| parameter["name"] == **name) {
                return Err(no_such_parameter(&known, name));
            }
            if sent[..index].iter().any(|(before, _)| before == name) {
                let detail = format!("`{name}` was sent twice: send it once.");
                return Err(Problem::new(Code::InvalidQuery, detail));
            }
        }
        Query::try_from_uri(&parts.uri)
            .map(|Query(query)| Self(query))
            .map_err(|rejection| unusable(&known, &rejection))
    }
}

/// The query parameters that `T` declares, as `/openapi.json` shows them.
fn known<T: IntoParams>() -> Vec<Value> {
    let parameters = T::into_params(|| Some(ParameterIn::Query)).into_iter();
    parameters
        .filter(|parameter| parameter.parameter_in == ParameterIn::Query)
        .map(|parameter| json!(parameter))
        .collect()
}

fn no_such_parameter(known: &[Value], name: &str) -> Problem {
    let names: Vec<&str> = known
        .iter()
        .filter_map(|parameter| parameter["name"].as_str())
        .collect();
    let detail = format!(
        "There is no parameter `{}` here. There are: {}.",
        truncate(name),
        names.join(", ")
    );
    Problem::new(Code::InvalidQuery, detail)
}

/// Explains a parameter whose value was refused, or that is missing. Serde's own words name Rust types, so the schema of the
/// contract is used instead, unless the type has a message of ours, which begins with "expected".
fn unusable(known: &[Value], rejection: &(dyn Error + 'static)) -> Problem {
    type ParameterError = serde_path_to_error::Error<serde::de::value::Error>;
    // Axum wraps the error that knows the parameter's name. So the chain of causes is searched for it.
    let mut cause = Some(rejection);
    let error = loop {
        match cause {
            Some(error) if error.is::<ParameterError>() => {
                break error.downcast_ref::<ParameterError>();
            }
            Some(error) => cause = error.source(),
            None => break None,
        }
    };
    let Some(error) = error else {
        return Problem::new(Code::InvalidQuery, "The query cannot be read.");
    };
    let name = error.path().to_string();
    let parameter = known.iter().find(|parameter| parameter["name"] == *name);
    let schema = parameter.map_or(&Value::Null, |parameter| &parameter["schema"]);
    let message = error.inner().to_string();
    let detail = if message.starts_with("expected ") {
        format!("`{name}`: {}", sentence(&message))
    } else {
        format!("`{name}`: Expected {}.", expected(without_null(schema)))
    };
    Problem::new(Code::InvalidQuery, detail)
}

/// Refuses a search text that contains a NUL character, because Postgres fails on such a text.
///
/// # Errors
/// Returns [`Code::InvalidQuery`], which names the parameter, if the text contains a NUL character.
pub fn refuse_nul(parameter: &str, text: Option<&str>) -> Result<(), Problem> {
    match text {
        Some(text) if text.contains('\0') => Err(Problem::new(
            Code::InvalidQuery,
            format!("`{parameter}` holds a NUL character: leave it out."),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use domain::id::JobId;
    use domain::job::State;
    use serde::Deserialize;

    use super::*;
    use crate::paging::Limit;

    #[derive(Debug, Deserialize, IntoParams)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their types matter")]
    struct ExampleQuery {
        #[serde(default)]
        #[param(schema_with = Limit::schema)]
        limit: Limit,
        #[param(inline)]
        state: Option<State>,
        #[param(value_type = Option<String>)]
        after: Option<JobId>,
        #[serde(default)]
        dry_run: bool,
        #[serde(default, with = "time::serde::rfc3339::option")]
        #[param(value_type = Option<String>, format = DateTime)]
        since: Option<time::OffsetDateTime>,
    }

    #[tokio::test]
    async fn a_refused_query_is_explained_in_words() {
        for (query, says) in [
            ("limit=x", "`limit`: Expected a whole number from 1 to 100."),
            (
                "limit=101",
                "`limit`: Expected a whole number from 1 to 100.",
            ),
            ("limit=", "`limit`: Expected a whole number from 1 to 100."),
            (
                "limit=99999999999999999999",
                "`limit`: Expected a whole number from 1 to 100.",
            ),
            (
                "state=done",
                "`state`: Expected one of queued, running, succeeded, partial, failed, canceled, expired.",
            ),
            (
                "after=art_1",
                "`after`: Expected an id like `job_` followed by 26 characters of 0-9 and a-z.",
            ),
            ("dry_run=1", "`dry_run`: Expected true or false."),
            (
                "since=today",
                "`since`: Expected a time like 2026-11-22T18:00:00Z (RFC 3339).",
            ),
            (
                "limt=1",
                "There is no parameter `limt` here. There are: limit, state, after, dry_run, since.",
            ),
            ("limit=1&limit=1", "`limit` was sent twice: send it once."),
            (
                &*format!("{}=1", "x".repeat(1_000)),
                &*format!(
                    "There is no parameter `{}…` here. There are: limit, state, after, dry_run, since.",
                    "x".repeat(100)
                ),
            ),
            (
                &*format!("after={}", "x".repeat(9_000)),
                "The query is too long: at most 8192 bytes.",
            ),
        ] {
            let request = Request::get(format!("/?{query}")).body(()).unwrap();
            let mut parts = request.into_parts().0;
            let problem = Parameters::<ExampleQuery>::from_request_parts(&mut parts, &()).await;
            let problem = problem.unwrap_err().body("", "");
            assert_eq!(problem["detail"], says, "{query}");
        }
    }
}

//! Queries: every parameter is known, stands there once and has a value that its place in the contract takes.

use std::error::Error;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::expected::{at, expected};
use crate::error::{Code, Problem, sentence, truncate};

/// Longest query string, in bytes.
const MAX_QUERY: usize = 8 * 1024;

/// A query string.
#[derive(Debug)]
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned + IntoParams, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        if query.len() > MAX_QUERY {
            let detail = format!("The query is too long: at most {MAX_QUERY} bytes.");
            return Err(Problem::new(Code::InvalidQuery, detail));
        }
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
                let detail = format!("`{name}` is there twice: send it once.");
                return Err(Problem::new(Code::InvalidQuery, detail));
            }
        }
        Query::try_from_uri(&parts.uri)
            .map(|Query(query)| Self(query))
            .map_err(|rejection| unusable(&known, &rejection))
    }
}

/// The parameters of a query, as `/openapi.json` shows them.
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

/// The parameter that Rust refuses, in the words of the contract; in our own where its type has some.
fn unusable(known: &[Value], rejection: &(dyn Error + 'static)) -> Problem {
    type Wrong = serde_path_to_error::Error<serde::de::value::Error>;
    let mut cause = Some(rejection);
    let wrong = loop {
        match cause {
            Some(error) if error.is::<Wrong>() => break error.downcast_ref::<Wrong>(),
            Some(error) => cause = error.source(),
            None => break None,
        }
    };
    let Some(wrong) = wrong else {
        return Problem::new(Code::InvalidQuery, "The query cannot be read.");
    };
    let name = wrong.path().to_string();
    let parameter = known.iter().find(|parameter| parameter["name"] == *name);
    let schema = parameter.map_or(&Value::Null, |parameter| &parameter["schema"]);
    let said = wrong.inner().to_string();
    let detail = if said.starts_with("expected ") {
        format!("`{name}`: {}", sentence(&said))
    } else {
        format!("`{name}`: Expected {}.", expected(at(schema, "")))
    };
    Problem::new(Code::InvalidQuery, detail)
}

/// How many lines of a list are wanted.
pub fn limit(asked: Option<i64>) -> Result<i64, Problem> {
    match asked.unwrap_or(20) {
        limit @ 1..=100 => Ok(limit),
        _ => Err(Problem::new(
            Code::InvalidQuery,
            "`limit`: Expected a whole number from 1 to 100.",
        )),
    }
}

/// The number of the last line somebody has.
pub fn after(asked: Option<i64>) -> Result<Option<i64>, Problem> {
    match asked {
        Some(number) if number < 0 => Err(Problem::new(
            Code::InvalidQuery,
            format!(
                "`starting_after`: Expected a whole number from 0 to {}.",
                i64::MAX
            ),
        )),
        asked => Ok(asked),
    }
}

/// What [`after`] takes, for `/openapi.json`.
pub fn line_number() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(0))
        .maximum(Some(i64::MAX))
        .into()
}

/// A page, of one line more than was asked for, and whether that line was there.
pub fn page<T>(mut lines: Vec<T>, limit: i64) -> (Vec<T>, bool) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = lines.len() > limit;
    lines.truncate(limit);
    (lines, has_more)
}

/// Postgres keeps no NUL in text, so nothing there can match it.
pub fn searchable(parameter: &str, text: Option<&str>) -> Result<(), Problem> {
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
    use common::id::JobId;
    use common::job::State;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, IntoParams)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their types matter")]
    struct Which {
        #[param(minimum = 1, maximum = 100)]
        limit: Option<i64>,
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
    async fn a_query_is_refused_in_words() {
        for (query, says) in [
            ("limit=x", "`limit`: Expected a whole number from 1 to 100."),
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
            ("limit=1&limit=1", "`limit` is there twice: send it once."),
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
            let problem = Parameters::<Which>::from_request_parts(&mut parts, &()).await;
            let problem = problem.unwrap_err().body("", "");
            assert_eq!(problem["detail"], says, "{query}");
        }
    }
}

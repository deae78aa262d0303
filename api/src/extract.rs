//! What a request says, parsed at the edge: what cannot be read is a problem that says why.

mod body;
#[cfg(test)]
mod every_body;
mod expected;
mod json;
mod query;

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

pub use body::{AnyBody, JsonBody, MAX_BODY};
pub use json::json;
pub use query::{Parameters, after, limit, line_number, page, searchable};

use crate::error::{Code, Problem, sentence};

/// A header that says one thing. Sent twice it is refused: which of the two counts would be a guess.
pub fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        let detail = format!("The header {name} is there twice: send it once.");
        return Err(Problem::new(Code::InvalidHeader, detail));
    }
    Ok(first)
}

/// The id in the path. One that cannot be an id finds nothing, and says what an id looks like.
#[derive(Debug)]
pub struct Id<T>(pub T);

impl<T, S> FromRequestParts<S> for Id<T>
where
    T: FromStr<Err: Display>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::from(Code::NotFound))?;
        text.parse()
            .map(Self)
            .map_err(|error| Problem::new(Code::NotFound, sentence(&error)))
    }
}

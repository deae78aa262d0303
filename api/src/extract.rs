//! Extractors: parse headers, paths, queries and bodies. What cannot be parsed becomes a problem that says why.

mod body;
mod expected;
mod json;
mod query;
mod strict_json;

use std::convert::Infallible;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

pub use body::{AnyBody, JsonBody, MAX_BODY};
#[cfg(test)]
pub(crate) use expected::{expected, schema_at};
pub use json::json;
pub use query::{Parameters, refuse_nul};

use crate::app::App;
use crate::base_url::{BaseUrl, Connection};
use crate::error::{Code, Problem, sentence};

/// Returns the value of a header that may be sent at most once.
///
/// # Errors
/// Returns [`Code::InvalidHeader`] if the header was sent twice, because either of the two values could be the intended one.
pub fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        let detail = format!("The header {name} was sent twice: send it once.");
        return Err(Problem::new(Code::InvalidHeader, detail));
    }
    Ok(first)
}

/// The id in the path. A text that cannot be an id is answered with 404, and the detail says what an id looks like.
#[derive(Debug)]
pub struct Id<T>(
    /// The parsed id.
    pub T,
);

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

impl FromRequestParts<Arc<App>> for BaseUrl {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        let connection = parts.extensions.get::<Connection>().copied();
        Ok(Self::from_request(&app.public, connection, &parts.headers))
    }
}

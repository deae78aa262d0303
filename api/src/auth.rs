//! Who asks: the tenant an API key speaks for.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use common::authentication;
use common::id::TenantId;
use common::tenant::ApiKey;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::error::{Code, Problem};
use crate::extract::single;

/// The tenant whose key came with the request. A handler that takes it cannot be reached without one.
#[derive(Clone, Copy, Debug)]
pub struct Tenant(pub TenantId);

impl FromRequestParts<Arc<App>> for Tenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let header = single(&parts.headers, &AUTHORIZATION)?
            .ok_or_else(|| refused("There is no Authorization header."))?;
        let key = header.to_str().ok().and_then(bearer).ok_or_else(|| {
            refused("The Authorization header does not hold an API key like `Bearer pk_…`.")
        })?;
        let tenant = authentication::authenticate(&app.pool, &key)
            .await?
            .ok_or_else(|| refused("There is no such API key, or it was revoked."))?;
        tracing::Span::current().record("tenant", tracing::field::display(tenant));
        Ok(Self(tenant))
    }
}

/// An operator. Who that is is decided here and nowhere else: for now whoever holds the one key.
#[derive(Clone, Copy, Debug)]
pub struct Operator;

impl Operator {
    /// What the record says of who acted.
    pub const NAME: &'static str = "api";
}

impl FromRequestParts<Arc<App>> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let shown = single(&parts.headers, &AUTHORIZATION)?;
        let shown = shown.and_then(|header| header.to_str().ok()?.split_once(' '));
        let shown = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (Some((_, shown)), Some(key)) = (shown, &app.operator_key) else {
            return Err(not_an_operator());
        };
        // Of hashes it tells nothing how many bytes agree.
        let hash = |text: &str| Sha256::digest(text.as_bytes());
        if hash(shown) == hash(key.expose_secret()) {
            Ok(Self)
        } else {
            Err(not_an_operator())
        }
    }
}

fn not_an_operator() -> Problem {
    Problem::new(
        Code::Unauthenticated,
        "This is for operators: send `Authorization: Bearer …` with the key in PLATEN_OPERATOR_KEY.",
    )
}

fn refused(why: &str) -> Problem {
    Problem::new(
        Code::Unauthenticated,
        format!("{why} {}", Code::Unauthenticated.advice()),
    )
}

/// The key of `Bearer <key>`; the scheme in any case, as RFC 9110 has it.
fn bearer(header: &str) -> Option<ApiKey> {
    let (scheme, key) = header.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| ApiKey::parse(key.trim()))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_key_is_a_key() {
        let key = ApiKey::generate();
        for good in ["Bearer", "bearer"] {
            assert!(bearer(&format!("{good} {}", key.expose())).is_some());
        }
        for bad in [
            key.expose().to_owned(),
            format!("Basic {}", key.expose()),
            "Bearer".to_owned(),
            "Bearer pk_1".to_owned(),
        ] {
            assert!(bearer(&bad).is_none());
        }
    }
}

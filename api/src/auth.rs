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
use crate::rates::{Client, Whose};

/// The tenant whose key came with the request. A handler that takes it cannot be reached without one.
#[derive(Clone, Copy, Debug)]
pub struct Tenant(pub TenantId);

impl FromRequestParts<Arc<App>> for Tenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let header = single(&parts.headers, &AUTHORIZATION)?
            .ok_or_else(|| refused("There is no Authorization header."))?;
        let (client, rates) = (client(parts), &app.rates);
        let shown = header.to_str().unwrap_or_default();
        rates.may_authenticate(&client, shown)?;
        let failed = |why| {
            rates.failed(&client, Whose::Tenant, shown);
            refused(why)
        };
        let key = bearer(shown).ok_or_else(|| {
            failed("The Authorization header does not hold an API key like `Bearer pk_…`.")
        })?;
        let turn = app.shares.authentication(&key.id).await?;
        let tenant = authentication::authenticate(&app.pool, &key)
            .await?
            .ok_or_else(|| failed("There is no such API key, or it was revoked."))?;
        drop(turn);
        rates.admit(&client, tenant, shown)?;
        // Bodies are read in the tenant's share of memory.
        parts.extensions.insert(tenant);
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
        let header = single(&parts.headers, &AUTHORIZATION)?.ok_or_else(not_an_operator)?;
        let (client, rates) = (client(parts), &app.rates);
        let shown = header.to_str().unwrap_or_default();
        rates.may_authenticate(&client, shown)?;
        let key = shown
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        // Of hashes it tells nothing how many bytes agree.
        let hash = |text: &str| Sha256::digest(text.as_bytes());
        match (key, &app.operator_key) {
            (Some((_, shown_key)), Some(key)) if hash(shown_key) == hash(key.expose_secret()) => {
                rates.remember(shown);
                Ok(Self)
            }
            _ => {
                rates.failed(&client, Whose::Operator, shown);
                Err(not_an_operator())
            }
        }
    }
}

fn client(parts: &Parts) -> Client {
    parts.extensions.get().cloned().unwrap_or_default()
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

//! Authentication and authorization: finds who sent a request, and checks that the caller holds the permission that the route
//! names.

pub mod permission;

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use domain::api_key::ApiKey;
use domain::id::TenantId;
use domain::permission::{Permissions, Role};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::error::{Code, Problem};
use crate::extract::single;
use crate::rates::{Client, KeyOwner};

/// For whom a request acts. A handler with this argument is called only if the API key is valid, no rate limit is used up, and
/// the key holds the permission of the route.
#[derive(Clone, Copy, Debug)]
pub struct Principal {
    /// The tenant of the key.
    pub tenant: TenantId,
    /// What the key may do.
    pub permissions: Permissions,
}

impl FromRequestParts<Arc<App>> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let header = single(&parts.headers, &AUTHORIZATION)?
            .ok_or_else(|| refused("There is no Authorization header."))?;
        let (client, rates) = (client(parts), &app.rates);
        let credentials = header.to_str().unwrap_or_default();
        rates.check_failures(&client, credentials)?;
        let failed = |why| {
            rates.record_failure(&client, KeyOwner::Tenant, credentials);
            refused(why)
        };
        let key = bearer(credentials).ok_or_else(|| {
            failed("The Authorization header does not hold an API key like `Bearer pk_…`.")
        })?;
        let rights = match app.keys.remembered(&key) {
            Some(rights) => rights,
            None => {
                let _permit = app.shares.authentication(&key.id).await?;
                app.keys
                    .authenticate(&app.pool, &key)
                    .await?
                    .ok_or_else(|| {
                        failed("There is no such API key, or it was revoked or has expired.")
                    })?
            }
        };
        let (tenant, permissions) = (rights.tenant, rights.permissions);
        rates.admit(&client, tenant, credentials)?;
        if !rights.allow(client.address) {
            return Err(Code::NetworkNotAllowed.into());
        }
        permission::check(parts, permissions)?;
        // The extractors of bodies need the tenant, because a body counts towards its tenant's share of memory.
        parts.extensions.insert(tenant);
        tracing::Span::current().record("tenant", tracing::field::display(tenant));
        Ok(Self {
            tenant,
            permissions,
        })
    }
}

/// The operator who sent a request, recognized by the operators' key. No other place decides who is an operator.
#[derive(Clone, Copy, Debug)]
pub struct Operator;

impl Operator {
    /// The name of the actor in the audit log. All operators share one key, so they share one name.
    pub const NAME: &'static str = "api";
}

impl FromRequestParts<Arc<App>> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let header = single(&parts.headers, &AUTHORIZATION)?.ok_or_else(not_an_operator)?;
        let (client, rates) = (client(parts), &app.rates);
        let credentials = header.to_str().unwrap_or_default();
        rates.check_failures(&client, credentials)?;
        let sent_key = credentials
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        // Comparing hashes in variable time leaks nothing about the key.
        let hash = |text: &str| Sha256::digest(text.as_bytes());
        match (sent_key, &app.operator_key) {
            (Some((_, sent_key)), Some(key)) if hash(sent_key) == hash(key.expose_secret()) => {
                rates.remember(credentials);
                permission::check(parts, Permissions::of_role(Role::Operator))?;
                Ok(Self)
            }
            _ => {
                rates.record_failure(&client, KeyOwner::Operator, credentials);
                Err(not_an_operator())
            }
        }
    }
}

/// The client of a request. [`limit_rate`](crate::request::limit_rate) has recorded it for every request that needs a key.
fn client(parts: &Parts) -> Client {
    parts.extensions.get().cloned().unwrap_or_default()
}

fn not_an_operator() -> Problem {
    Problem::new(
        Code::Unauthenticated,
        "This route is for operators: send `Authorization: Bearer …` with the key in PLATEN_OPERATOR_KEY.",
    )
}

fn refused(why: &str) -> Problem {
    Problem::new(
        Code::Unauthenticated,
        format!("{why} {}", Code::Unauthenticated.advice()),
    )
}

/// The key of `Bearer <key>`. The scheme is case-insensitive (RFC 9110, 11.1).
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
    fn only_bearer_credentials_hold_a_key() {
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

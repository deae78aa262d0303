//! `POST /v1/keys`: makes an API key.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use common::people::api_keys;
use domain::api_key::KeyTerms;
use domain::clock;
use domain::generation::Violation;
use domain::permission::{Permission, Permissions, scope_names};
use domain::visible;
use ipnet::IpNet;
use serde::Deserialize;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::{KeyView, kept_answer, key_response, must_hold};
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Problem, Result, sentence};
use crate::extract::{self, JsonBody};
use crate::idempotency::IdempotencyKey;

/// The longest name of a key, in characters.
const MAX_NAME_LENGTH: usize = 200;
/// The most networks that a key may be limited to.
const MAX_NETWORKS: usize = 20;
/// How long a key that expires may live at most: ten years.
const MAX_LIFETIME: Duration = Duration::days(3_653);

/// A key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    #[serde(default)]
    #[schema(required, schema_with = name_schema)]
    name: String,
    /// The permissions of the key, none of which you lack. Without this field it holds those of yours that keys hold by default.
    #[schema(min_items = 1, max_items = 64, example = json!(["jobs:read", "jobs:write"]))]
    scopes: Option<Vec<String>>,
    /// The networks that the key may be used from, in CIDR notation; empty for all.
    #[serde(default)]
    #[schema(max_items = 20, example = json!(["192.0.2.0/24"]))]
    networks: Vec<String>,
    /// From when on the key is refused, at most ten years ahead. Without this field it does not expire.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<String>,
}

/// The schema of a name, for `/openapi.json`.
fn name_schema() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("The name of the key: what it is for."))
        .min_length(Some(1))
        .max_length(Some(MAX_NAME_LENGTH))
        .pattern(Some(visible::visible_pattern()))
        .examples(["nightly catalogue"])
        .into()
}

/// Create an API key
///
/// The answer is the only one that contains the whole key. If the request is repeated, the answer does not contain it.
#[utoipa::path(
    post,
    path = "/v1/keys",
    operation_id = "create_key",
    tag = "keys",
    security(("key" = [])),
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = CreateKey,
    responses(
        (status = 201, description = "The key", body = KeyView,
            headers(
                ("Location" = String, description = "The path of the key"),
                ("Idempotency-Key" = String, description = "The key that was sent or generated"),
                ("Idempotent-Replayed" = Option<bool>, description = "`true` if this is the stored answer to an earlier request"),
            )),
        (status = 409, description = "There are too many keys"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: IdempotencyKey,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let wanted: CreateKey = extract::json(&body)?;
    let terms = wanted.terms(principal.permissions, clock::now())?;
    must_hold(&principal, terms.permissions())?;
    let request = key.request("POST", "/v1/keys", &body);
    let tenant = principal.tenant;
    let connection = app.wallet(tenant).await?;
    let made = api_keys::create(&connection, tenant, &request, terms, kept_answer).await?;
    key_response(&key, made)
}

impl CreateKey {
    /// Checks the body. `held` is what the maker of the key holds.
    fn terms(self, held: Permissions, now: OffsetDateTime) -> Result<KeyTerms> {
        let mut violations = Vec::new();
        let name = self.name.trim();
        if visible::is_blank(name) || name.chars().count() > MAX_NAME_LENGTH || name.contains('\0')
        {
            let detail = format!("Name the key, in 1 to {MAX_NAME_LENGTH} characters.");
            violations.push(Violation::new("/name", detail));
        }
        let scopes = match self.scopes {
            Some(names) => parse_scopes(&names, &mut violations),
            None => Permissions::of_keys().and(held),
        };
        let networks = parse_networks(&self.networks, &mut violations);
        let expires_at = self.expires_at.and_then(|text| {
            let parsed = OffsetDateTime::parse(&text, &Rfc3339).ok();
            let is_usable = |at: &OffsetDateTime| *at > now && *at <= now + MAX_LIFETIME;
            if parsed.is_none_or(|at| !is_usable(&at)) {
                let detail = "A time in the future, at most ten years ahead, as RFC 3339 writes it: 2027-01-31T00:00:00Z.";
                violations.push(Violation::new("/expires_at", detail));
            }
            parsed
        });
        if violations.is_empty() {
            Ok(KeyTerms {
                name: name.to_owned(),
                scopes: Some(scopes),
                networks,
                expires_at,
            })
        } else {
            Err(Problem::invalid(violations))
        }
    }
}

fn parse_scopes(names: &[String], violations: &mut Vec<Violation>) -> Permissions {
    if names.is_empty() {
        let detail = format!("Name one or more of {}.", scope_names());
        violations.push(Violation::new("/scopes", detail));
    }
    let mut scope = |(index, name): (usize, &String)| {
        let unknown = |error| Violation::new(format!("/scopes/{index}"), sentence(&error));
        let scope = Permission::parse_scope(name).map_err(unknown);
        scope.map_err(|violation| violations.push(violation)).ok()
    };
    names.iter().enumerate().filter_map(&mut scope).collect()
}

fn parse_networks(texts: &[String], violations: &mut Vec<Violation>) -> Vec<IpNet> {
    if texts.len() > MAX_NETWORKS {
        let detail = format!("A key may be limited to at most {MAX_NETWORKS} networks.");
        violations.push(Violation::new("/networks", detail));
        return Vec::new();
    }
    let mut network = |(index, text): (usize, &String)| {
        // A single address is the network of this address alone.
        let alone = || text.parse::<IpAddr>().ok().map(IpNet::from);
        let network = text.parse().ok().or_else(alone);
        if network.is_none() {
            let detail = "A network in CIDR notation, such as 192.0.2.0/24 or 2001:db8::/48.";
            violations.push(Violation::new(format!("/networks/{index}"), detail));
        }
        network
    };
    texts.iter().enumerate().filter_map(&mut network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn terms(body: &str) -> Result<KeyTerms> {
        let wanted: CreateKey = extract::json(body.as_bytes())?;
        wanted.terms(Permissions::of_keys(), clock::now())
    }

    #[test]
    fn a_name_is_enough() {
        let terms = terms(r#"{"name": " ci "}"#).unwrap();
        assert_eq!(terms, KeyTerms::named("ci"));
    }

    #[test]
    fn a_key_without_scopes_holds_no_more_than_its_maker() {
        let held = Permissions::from_iter([Permission::JobsRead, Permission::KeysWrite]);
        let wanted: CreateKey = extract::json(br#"{"name": "ci"}"#).unwrap();
        let terms = wanted.terms(held, clock::now()).unwrap();
        let jobs_read = Permissions::from_iter([Permission::JobsRead]);
        assert_eq!(terms.permissions(), jobs_read);
    }

    #[test]
    fn everything_that_is_wrong_is_reported() {
        let problem = terms(
            r#"{"name": "", "scopes": ["jobs:eat", "operations:write"], "networks": ["here"], "expires_at": "2001-01-01T00:00:00Z"}"#,
        )
        .unwrap_err();
        assert_eq!(problem.code(), Code::InvalidRequest);
        let body = problem.body("", "");
        let pointers: Vec<&str> = body["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["pointer"].as_str().unwrap())
            .collect();
        assert_eq!(
            pointers,
            [
                "/name",
                "/scopes/0",
                "/scopes/1",
                "/networks/0",
                "/expires_at"
            ]
        );
    }

    #[test]
    fn an_address_is_a_network() {
        let terms = terms(r#"{"name": "ci", "networks": ["192.0.2.7", "2001:db8::/48"]}"#).unwrap();
        let texts: Vec<String> = terms.networks.iter().map(IpNet::to_string).collect();
        assert_eq!(texts, ["192.0.2.7/32", "2001:db8::/48"]);
    }
}

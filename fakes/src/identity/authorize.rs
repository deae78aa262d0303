//! `/identity/authorize`: signs a person in and redirects with a code (RFC 6749, 4.1.1; RFC 7636; RFC 9207).

use super::{ISSUER, IdentityProvider, switches};
use crate::{call, reply::Reply};
use serde_json::{Value, json};
use std::collections::HashMap;
use url::{Url, form_urlencoded};

/// Who signs in if the request does not name a person.
const DEFAULT_PERSON: &str = "ada@example.com";

/// What a code stands for.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) client_id: String,
    pub(super) redirect_uri: String,
    pub(super) code_challenge: String,
    pub(super) nonce: Option<String>,
    pub(super) scope: String,
    pub(super) email: String,
    pub(super) auth_time: i64,
}

impl IdentityProvider {
    pub(super) fn authorize(&self, query: &str, base_url: &str) -> Reply {
        let query: HashMap<String, String> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        let value = |name: &str| query.get(name).filter(|value| !value.is_empty()).cloned();
        // Without a client and an address that are known, nobody may be sent anywhere (RFC 6749, 4.1.2.1).
        let redirect_uri = value("redirect_uri").unwrap_or_default();
        let (Some(client_id), Ok(mut url)) = (value("client_id"), Url::parse(&redirect_uri)) else {
            return Reply::page(400).with_outcome("refused_request");
        };
        let scope = value("scope").unwrap_or_default();
        let code_challenge = value("code_challenge");
        let error = if value("response_type").as_deref() != Some("code") {
            Some("unsupported_response_type")
        } else if !scope.split(' ').any(|name| name == "openid") {
            Some("invalid_scope")
        } else if code_challenge.is_none()
            || query
                .get("code_challenge_method")
                .is_none_or(|it| it != "S256")
        {
            Some("invalid_request")
        } else if query
            .get("login_hint")
            .is_some_and(|hint| hint == "nobody@example.com")
        {
            Some("access_denied")
        } else {
            None
        };
        let mut parameters = match error {
            Some(error) => json!({"error": error}),
            None => {
                let code = hex::encode(call::unique());
                let grant = Grant {
                    client_id,
                    redirect_uri,
                    code_challenge: code_challenge.unwrap_or_default(),
                    nonce: value("nonce"),
                    scope,
                    email: value("login_hint").unwrap_or_else(|| DEFAULT_PERSON.to_owned()),
                    auth_time: call::now().unix_timestamp(),
                };
                self.shared().grants.insert(code.clone(), grant);
                json!({"code": code})
            }
        };
        parameters["state"] = json!(value("state"));
        parameters["iss"] = json!(format!("{base_url}{ISSUER}"));
        switches::merge(&mut parameters, &self.switches().redirect);
        for (name, value) in parameters.as_object().into_iter().flatten() {
            if let Value::String(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        Reply::raw_json(302, String::new())
            .with_header("location", url.as_str())
            .with_outcome(error.unwrap_or("ok"))
    }
}

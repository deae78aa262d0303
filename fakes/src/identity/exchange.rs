//! `/identity/token`: exchanges a code for an ID token (RFC 6749, 4.1.3).

use super::{ISSUER, IdentityProvider, switches};
use crate::{
    call::{self, IncomingRequest},
    reply::Reply,
};
use axum::http::{HeaderMap, header::AUTHORIZATION};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use url::form_urlencoded;

/// How long a token lives, in seconds.
const LIFETIME_SECONDS: i64 = 3_600;
/// The secret that is not accepted.
const WRONG_SECRET: &str = "wrong";

impl IdentityProvider {
    pub(super) fn exchange(&self, incoming: &IncomingRequest, base_url: &str) -> Reply {
        match self.tokens(incoming, base_url) {
            Ok(answer) => Reply::json(200, &answer).with_header("cache-control", "no-store"),
            Err(error) => {
                let status = if error == "invalid_client" { 401 } else { 400 };
                Reply::refused(status, &json!({"error": error}))
            }
        }
    }

    fn tokens(&self, incoming: &IncomingRequest, base_url: &str) -> Result<Value, &'static str> {
        let form: HashMap<String, String> =
            form_urlencoded::parse(&incoming.raw).into_owned().collect();
        let value = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let (client_id, secret) = basic(&incoming.headers).unwrap_or_else(|| {
            (
                value("client_id").to_owned(),
                value("client_secret").to_owned(),
            )
        });
        if client_id.is_empty() || secret == WRONG_SECRET {
            return Err("invalid_client");
        }
        if value("grant_type") != "authorization_code" {
            return Err("unsupported_grant_type");
        }
        // A code that was shown once is gone, whatever comes of it.
        let grant = self.shared().grants.remove(value("code"));
        let grant = grant.ok_or("invalid_grant")?;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(value("code_verifier")));
        if grant.client_id != client_id
            || grant.redirect_uri != value("redirect_uri")
            || grant.code_challenge != challenge
        {
            return Err("invalid_grant");
        }

        let access_token = hex::encode(call::unique());
        let half_digest = &Sha256::digest(&access_token)[..16];
        let now = call::now().unix_timestamp();
        let switches = self.switches();
        let mut claims = json!({
            "iss": format!("{base_url}{ISSUER}"),
            "sub": hex::encode(&Sha256::digest(&grant.email)[..12]),
            "aud": client_id,
            "azp": client_id,
            "iat": now,
            "exp": now + LIFETIME_SECONDS,
            "auth_time": grant.auth_time,
            "nonce": grant.nonce,
            "at_hash": URL_SAFE_NO_PAD.encode(half_digest),
            "email": grant.email,
            "email_verified": true,
            "name": grant.email.split('@').next(),
        });
        switches::merge(&mut claims, &switches.claims);
        let mut answer = json!({
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": LIFETIME_SECONDS,
            "scope": grant.scope,
            "id_token": self.key(&switches.algorithm).token(&claims),
        });
        switches::merge(&mut answer, &switches.answer);
        Ok(answer)
    }
}

/// The name and the secret of `Authorization: Basic`. Both have the encoding of forms (RFC 6749, 2.3.1).
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let text = String::from_utf8(STANDARD.decode(value.strip_prefix("Basic ")?).ok()?).ok()?;
    let (name, secret) = text.split_once(':')?;
    Some((decoded(name), decoded(secret)))
}

fn decoded(text: &str) -> String {
    // The pair has no `=` and no `&`, because both are escaped.
    let pairs = form_urlencoded::parse(text.as_bytes());
    pairs.map(|(name, _)| name.into_owned()).collect()
}

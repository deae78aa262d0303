//! An identity provider: `OpenID` Connect with PKCE, and the keys of Firebase Authentication.
//!
//! | path | what |
//! |---|---|
//! | `/identity/.well-known/openid-configuration` | the discovery document; the issuer is `http://<address>/identity` |
//! | `/identity/jwks` | the public keys |
//! | `/identity/authorize` | signs the person of `login_hint` in, without a page, and redirects with a code |
//! | `/identity/token` | exchanges a code for an ID token |
//! | `/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com` | the same keys, where Google publishes those of Firebase |
//!
//! Every client id is known, and every secret but `wrong` is right. The keys are made when they are first needed.
//! Requests are in the journal as `identity`. [`IdentitySwitches`] has what can be changed.

mod authorize;
mod exchange;
mod key;
mod switches;

use super::{
    call::{self, IncomingRequest, Vendor, blocking},
    journal::Journal,
    reply::Reply,
    service::Service,
};
use authorize::Grant;
use axum::{
    http::{Method, header::HOST},
    response::Response,
};
use futures::{FutureExt, future::BoxFuture};
pub use key::SigningKey;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
pub use switches::IdentitySwitches;

const ISSUER: &str = "/identity";
const DISCOVERY: &str = "/identity/.well-known/openid-configuration";
const KEYS: &str = "/identity/jwks";
const AUTHORIZE: &str = "/identity/authorize";
const TOKEN: &str = "/identity/token";
const GOOGLE_KEYS: &str = "/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com";

/// The identity provider of a running fake. Clones share it.
#[derive(Clone, Debug)]
pub struct IdentityProvider {
    shared: Arc<Mutex<Shared>>,
    journal: Journal,
}

#[derive(Debug, Default)]
struct Shared {
    switches: IdentitySwitches,
    /// The published keys, oldest first. The latest of each algorithm signs.
    keys: Vec<Arc<SigningKey>>,
    /// Codes that were not exchanged yet.
    grants: HashMap<String, Grant>,
}

impl IdentityProvider {
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            shared: Arc::default(),
            journal,
        }
    }

    /// The switches.
    pub fn switches(&self) -> IdentitySwitches {
        self.shared().switches.clone()
    }

    /// Replaces all switches.
    pub fn set(&self, switches: IdentitySwitches) {
        self.shared().switches = switches;
    }

    /// How many requests for keys came, at either path.
    pub fn key_requests(&self) -> usize {
        let calls = self.journal.calls();
        let paths = calls.iter().map(|call| call.path.as_str());
        paths
            .filter(|path| [KEYS, GOOGLE_KEYS].contains(path))
            .count()
    }

    /// The key that signs now with RS256.
    pub fn signing_key(&self) -> Arc<SigningKey> {
        self.key("RS256")
    }

    /// The key that signs now with ES256.
    pub fn ec_key(&self) -> Arc<SigningKey> {
        self.key("ES256")
    }

    /// Makes new keys, which sign from now on. The old keys stay published.
    pub fn rotate(&self) {
        let new = SigningKey::pair().map(Arc::new);
        self.shared().keys.extend(new);
    }

    /// Removes all keys but those that sign.
    pub fn retire_old_keys(&self) {
        let mut shared = self.shared();
        let old = shared.keys.len().saturating_sub(2);
        shared.keys.drain(..old);
    }

    fn key(&self, algorithm: &str) -> Arc<SigningKey> {
        let mut shared = self.shared();
        shared.make_keys();
        let latest = shared
            .keys
            .iter()
            .rev()
            .find(|key| key.algorithm() == algorithm);
        Arc::clone(latest.unwrap_or(&shared.keys[0]))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reply(&self, incoming: &IncomingRequest) -> Reply {
        if self.switches().outage {
            return Reply::page(503).with_outcome("outage");
        }
        let host = incoming
            .headers
            .get(HOST)
            .and_then(|host| host.to_str().ok());
        let base_url = format!("http://{}", host.unwrap_or("127.0.0.1"));
        match incoming.path.as_str() {
            DISCOVERY => self.cached(&self.discovery(&base_url)),
            KEYS | GOOGLE_KEYS => self.cached(&self.key_set()),
            AUTHORIZE => self.authorize(&incoming.query, &base_url),
            _ => self.exchange(incoming, &base_url),
        }
    }

    fn cached(&self, body: &Value) -> Reply {
        let max_age = self.switches().max_age;
        // As Google sends it.
        let value = format!("public, max-age={max_age}, must-revalidate, no-transform");
        Reply::json(200, body).with_header("cache-control", &value)
    }

    fn discovery(&self, base_url: &str) -> Value {
        let address = |path: &str| format!("{base_url}{path}");
        let mut document = json!({
            "issuer": address(ISSUER),
            "authorization_endpoint": address(AUTHORIZE),
            "token_endpoint": address(TOKEN),
            "jwks_uri": address(KEYS),
            "scopes_supported": ["openid", "email", "profile"],
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": true,
        });
        switches::merge(&mut document, &self.switches().discovery);
        document
    }

    fn key_set(&self) -> Value {
        let mut shared = self.shared();
        shared.make_keys();
        let keys: Vec<Value> = shared.keys.iter().map(|key| key.jwk()).collect();
        json!({"keys": keys})
    }
}

impl Shared {
    fn make_keys(&mut self) {
        if self.keys.is_empty() {
            self.keys.extend(SigningKey::pair().map(Arc::new));
        }
    }
}

impl Vendor for IdentityProvider {
    fn serves(&self, method: &Method, path: &str) -> bool {
        match path {
            DISCOVERY | KEYS | GOOGLE_KEYS | AUTHORIZE => method == Method::GET,
            TOKEN => method == Method::POST,
            _ => false,
        }
    }

    fn answer(
        self: Arc<Self>,
        service: Service,
        incoming: IncomingRequest,
    ) -> BoxFuture<'static, Response> {
        async move {
            let incoming = Arc::new(incoming);
            let request = Arc::clone(&incoming);
            let reply = async move {
                let latency = Duration::from_millis(self.switches().latency_ms);
                tokio::time::sleep(latency).await;
                blocking(move || self.reply(&request)).await
            };
            call::answer_other(&service, &incoming, "identity", reply).await
        }
        .boxed()
    }
}

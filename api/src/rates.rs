//! Rates: how many requests of one address, one tenant and one key are answered, and how many with a wrong key are looked at.
//!
//! The figures are for each api process: they need nobody else, so they hold while Redis and Postgres are away. Answers tell them
//! in `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers). Why so:
//! [0027](../../docs/decisions/0027-rates-in-each-process.md).

mod quota;

use std::collections::HashSet;
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use common::config;
use common::id::TenantId;
use common::telemetry::clients::{FAILED_AUTHENTICATIONS, OncePerSecond, RATE_LIMITED};

use crate::app::App;
use crate::base_url::Connection;
use crate::client::{Network, Pseudonyms};
use crate::error::{Code, Problem};
use quota::{Quota, Standing};

/// What the limits are, and how far from them. A structured field, such as `"tenant";r=1999;t=1`.
pub const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// What the limits are: requests, and seconds in which so many are answered, such as `"tenant";q=2000;w=10`.
pub const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Keys that were accepted, as many as are remembered.
const MAX_REMEMBERED_KEYS: usize = 65_536;

/// The limits, and how everybody stands.
#[derive(Debug)]
pub struct Rates {
    address: Option<Quota>,
    failures: Option<Quota>,
    tenant: Option<Quota>,
    key: Option<Quota>,
    /// Nobody outside can choose whom they share an entry with.
    hasher: RandomState,
    /// Credentials that were right when they were last looked up, hashed. They are looked up again even where an address has shown
    /// too many wrong ones: others behind the same address lock nobody out.
    accepted: Mutex<HashSet<u64>>,
    started: Instant,
    pseudonyms: Pseudonyms,
    failed: OncePerSecond,
}

/// Whose request it is, before anybody is authenticated, and what its limits have said. Every request has one.
#[derive(Clone, Default)]
pub struct Client {
    network: Option<Network>,
    noted: Arc<Mutex<Vec<Noted>>>,
}

/// What one limit has said: its policy, its name, and how the client stands.
type Noted = (Arc<str>, &'static str, Standing);

/// Whose key it should have been.
#[derive(Clone, Copy, Debug)]
pub enum Whose {
    Tenant,
    Operator,
}

impl Rates {
    pub fn new(limits: config::Rates, pseudonyms: Pseudonyms) -> Self {
        // Told from the start, or the first of each would be no increase.
        let quota = |name, rate: Option<_>| {
            RATE_LIMITED.with_label_values(&[name]).inc_by(0);
            rate.map(|rate| Quota::new(name, rate))
        };
        for whose in [Whose::Tenant, Whose::Operator] {
            FAILED_AUTHENTICATIONS
                .with_label_values(&[whose.as_str()])
                .inc_by(0);
        }
        Self {
            address: quota("address", limits.address),
            failures: quota("failures", limits.failures),
            tenant: quota("tenant", limits.tenant),
            key: quota("key", limits.key),
            hasher: RandomState::new(),
            accepted: Mutex::default(),
            started: Instant::now(),
            pseudonyms,
            failed: OncePerSecond::default(),
        }
    }

    /// Whether credentials are looked up at all. They are not where the address has shown too many wrong ones, unless these were right
    /// before.
    ///
    /// # Errors
    ///
    /// The 429, with what to wait for.
    pub fn may_authenticate(&self, client: &Client, credentials: &str) -> Result<(), Problem> {
        let (Some(quota), Some(network)) = (&self.failures, client.network) else {
            return Ok(());
        };
        let standing = quota.peek(self.hasher.hash_one(network), self.started.elapsed());
        let accepted = || {
            let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
            accepted.contains(&self.hasher.hash_one(credentials))
        };
        if standing.refused.is_some() && !accepted() {
            return client.note(quota, standing);
        }
        Ok(())
    }

    /// Counts and logs credentials that are wrong.
    pub fn failed(&self, client: &Client, whose: Whose, credentials: &str) {
        FAILED_AUTHENTICATIONS
            .with_label_values(&[whose.as_str()])
            .inc();
        let credentials = self.hasher.hash_one(credentials);
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.remove(&credentials);
        drop(accepted);
        if let (Some(quota), Some(network)) = (&self.failures, client.network) {
            quota.take(self.hasher.hash_one(network), self.started.elapsed());
        }
        let address = client.network.map(|network| self.pseudonyms.of(network));
        self.failed.say(move |failures| {
            let address = address.unwrap_or_default();
            tracing::warn!(
                failures,
                address,
                "Refused {failures} requests with a wrong key within a second; the first came from {address}"
            );
        });
    }

    /// Remembers credentials that are right.
    pub fn remember(&self, credentials: &str) {
        let credentials = self.hasher.hash_one(credentials);
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted.len() >= MAX_REMEMBERED_KEYS {
            accepted.clear();
        }
        accepted.insert(credentials);
    }

    /// Counts a request of a tenant, with a key that is right.
    ///
    /// # Errors
    ///
    /// The 429, with what to wait for.
    pub fn admit(
        &self,
        client: &Client,
        tenant: TenantId,
        credentials: &str,
    ) -> Result<(), Problem> {
        self.remember(credentials);
        let now = self.started.elapsed();
        if let Some(quota) = &self.key {
            client.note(quota, quota.take(self.hasher.hash_one(credentials), now))?;
        }
        if let Some(quota) = &self.tenant {
            client.note(quota, quota.take(self.hasher.hash_one(tenant), now))?;
        }
        Ok(())
    }

    fn admit_address(&self, client: &Client) -> Result<(), Problem> {
        let (Some(quota), Some(network)) = (&self.address, client.network) else {
            return Ok(());
        };
        let who = self.hasher.hash_one(network);
        client.note(quota, quota.take(who, self.started.elapsed()))
    }
}

impl Whose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Operator => "operator",
        }
    }
}

impl Client {
    /// Keeps what a limit has said, for the headers of the answer.
    fn note(&self, quota: &Quota, standing: Standing) -> Result<(), Problem> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push((quota.policy(), quota.name(), standing));
        let Some(seconds) = standing.refused else {
            return Ok(());
        };
        RATE_LIMITED.with_label_values(&[quota.name()]).inc();
        let what = match quota.name() {
            "failures" => "Too many requests with a wrong key came from this address",
            "address" => "Too many requests came from this address",
            "tenant" => "Too many requests of this tenant came",
            _ => "Too many requests with this key came",
        };
        let detail = format!("{what}: repeat this one after {seconds} seconds.");
        Err(Problem::new(Code::RateLimited, detail).with("limit", quota.name()))
    }

    fn write(&self, headers: &mut HeaderMap) {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut policy, mut limit) = (String::new(), String::new());
        for (each, name, standing) in &*noted {
            let comma = if policy.is_empty() { "" } else { ", " };
            let Standing {
                remaining, reset, ..
            } = standing;
            // Writing to a string does not fail.
            let _ = write!(policy, "{comma}{each}");
            let _ = write!(limit, "{comma}\"{name}\";r={remaining};t={reset}");
        }
        for (name, value) in [(POLICY, policy), (LIMIT, limit)] {
            if let Some(value) = HeaderValue::try_from(value)
                .ok()
                .filter(|value| !value.is_empty())
            {
                headers.insert(name, value);
            }
        }
        let wait = noted
            .iter()
            .filter_map(|(.., standing)| standing.refused)
            .max();
        if let Some(seconds) = wait {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
    }
}

/// The layer around every route: counts the address, and tells in the answer how all limits stand. Whoever asks whether we live is
/// always answered.
pub async fn limit(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    if matches!(request.uri().path(), "/livez" | "/readyz") {
        return next.run(request).await;
    }
    let connection = request.extensions().get::<Connection>();
    let client = Client {
        network: connection
            .map(|connection| Network::of_client(&app.public, connection.peer, request.headers())),
        noted: Arc::default(),
    };
    request.extensions_mut().insert(client.clone());
    let mut response = match app.rates.admit_address(&client) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    client.write(response.headers_mut());
    response
}

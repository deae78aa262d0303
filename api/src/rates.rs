//! Rate limits: requests per address, tenant and API key, and requests with a wrong key per address.
//!
//! Each API process counts for itself, so the limits work while Redis and Postgres are down. The reasons are in
//! [0027](../../docs/decisions/0027-rates-in-each-process.md). Answers report the limits in `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers).

mod quota;

use std::collections::HashSet;
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use common::config;
use domain::id::TenantId;
use telemetry::clients::{FAILED_AUTHENTICATIONS, OncePerSecond, RATE_LIMITED};

use crate::client::{Network, Pseudonyms};
use crate::error::{Code, Problem};
use quota::{Quota, QuotaStatus};

/// The header with the requests that are left and the seconds until all are available again, such as `"tenant";r=1999;t=1`.
pub const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The header with the limits, as requests per window of seconds, such as `"tenant";q=2000;w=10`.
pub const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The most accepted credentials that are remembered.
const MAX_REMEMBERED_KEYS: usize = 65_536;

/// All limits, with the counts of everybody. A limit that is `None` is turned off.
#[derive(Debug)]
pub struct Rates {
    /// Requests from each network.
    address: Option<Quota>,
    /// Requests with a wrong key from each network.
    failures: Option<Quota>,
    /// Requests of each tenant.
    tenant: Option<Quota>,
    /// Requests with each API key.
    key: Option<Quota>,
    /// The hasher has a random seed, so that no client can choose with which other client it shares a counter.
    hasher: RandomState,
    /// Hashes of credentials that were valid at their last check. They are checked again even if their address has sent too many
    /// wrong keys, so that others with the same address cannot lock a tenant out.
    accepted: Mutex<HashSet<u64>>,
    /// The time from which the quotas count.
    started: Instant,
    pseudonyms: Pseudonyms,
    failure_log: OncePerSecond,
}

/// Where a request comes from, and the results of the limits so far. Every request has a `Client` as an extension.
#[derive(Clone, Default)]
pub struct Client {
    /// The address of the client; `None` if it is not known.
    pub address: Option<IpAddr>,
    /// The network of the address. If it is not known, no limit per network applies.
    network: Option<Network>,
    /// The results, in the order in which the limits were checked. Clones share them.
    results: Arc<Mutex<Vec<LimitResult>>>,
}

/// The result of one limit: its policy, its name, and the client's status.
type LimitResult = (Arc<str>, &'static str, QuotaStatus);

/// Whose key a route needs.
#[derive(Clone, Copy, Debug, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum KeyOwner {
    /// The API key of a tenant.
    Tenant,
    /// The key of the operators.
    Operator,
}

impl Rates {
    /// Starts all limits with nothing counted.
    pub fn new(limits: config::Rates, pseudonyms: Pseudonyms) -> Self {
        // Counters are exported as 0 from the start. Otherwise Prometheus would not see the first event as an increase.
        let quota = |name, rate: Option<_>| {
            RATE_LIMITED.with_label_values(&[name]).inc_by(0);
            rate.map(|rate| Quota::new(name, rate))
        };
        for owner in [KeyOwner::Tenant, KeyOwner::Operator] {
            FAILED_AUTHENTICATIONS
                .with_label_values(&[owner.as_str()])
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
            failure_log: OncePerSecond::default(),
        }
    }

    /// Checks whether credentials may be looked up, without counting anything. They may not if their address has sent too many
    /// wrong credentials, unless these credentials were valid when they were last checked.
    ///
    /// # Errors
    /// Returns [`Code::RateLimited`], with the seconds to wait, if the limit is used up.
    pub fn check_failures(&self, client: &Client, credentials: &str) -> Result<(), Problem> {
        let (Some(quota), Some(network)) = (&self.failures, client.network) else {
            return Ok(());
        };
        let status = quota.peek(self.hasher.hash_one(network), self.started.elapsed());
        let was_accepted = || {
            let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
            accepted.contains(&self.hasher.hash_one(credentials))
        };
        if status.refused.is_some() && !was_accepted() {
            return client.record(quota, status);
        }
        Ok(())
    }

    /// Counts and logs wrong credentials, and forgets that they were valid before.
    pub fn record_failure(&self, client: &Client, owner: KeyOwner, credentials: &str) {
        FAILED_AUTHENTICATIONS
            .with_label_values(&[owner.as_str()])
            .inc();
        let credentials = self.hasher.hash_one(credentials);
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.remove(&credentials);
        drop(accepted);
        if let (Some(quota), Some(network)) = (&self.failures, client.network) {
            quota.take(self.hasher.hash_one(network), self.started.elapsed());
        }
        let pseudonym = client.network.map(|network| self.pseudonyms.of(network));
        self.failure_log.log(move |failures| {
            let pseudonym = pseudonym.unwrap_or_default();
            tracing::warn!(
                failures,
                address = pseudonym,
                "Refused {failures} requests with a wrong key within a second; the first came from {pseudonym}"
            );
        });
    }

    /// Remembers credentials that are valid.
    pub fn remember(&self, credentials: &str) {
        let credentials = self.hasher.hash_one(credentials);
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        // Forgetting all of them is harmless: until its next success, a valid key is refused only if its address also sends many
        // wrong keys.
        if accepted.len() >= MAX_REMEMBERED_KEYS {
            accepted.clear();
        }
        accepted.insert(credentials);
    }

    /// Counts a request with a valid key, towards the limits of the key and of its tenant, and remembers the key as valid.
    ///
    /// # Errors
    /// Returns [`Code::RateLimited`], with the seconds to wait, if one of the two limits is used up.
    pub fn admit(
        &self,
        client: &Client,
        tenant: TenantId,
        credentials: &str,
    ) -> Result<(), Problem> {
        self.remember(credentials);
        let now = self.started.elapsed();
        if let Some(quota) = &self.key {
            client.record(quota, quota.take(self.hasher.hash_one(credentials), now))?;
        }
        if let Some(quota) = &self.tenant {
            client.record(quota, quota.take(self.hasher.hash_one(tenant), now))?;
        }
        Ok(())
    }

    /// Counts a request towards the limit of its network.
    ///
    /// # Errors
    /// Returns [`Code::RateLimited`], with the seconds to wait, if the limit is used up.
    pub fn admit_address(&self, client: &Client) -> Result<(), Problem> {
        let (Some(quota), Some(network)) = (&self.address, client.network) else {
            return Ok(());
        };
        let who = self.hasher.hash_one(network);
        client.record(quota, quota.take(who, self.started.elapsed()))
    }
}

impl KeyOwner {
    fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Client {
    /// The client of a request; `address` is `None` if it is not known.
    pub fn new(address: Option<IpAddr>) -> Self {
        Self {
            address,
            network: address.map(Network::from_address),
            results: Arc::default(),
        }
    }

    /// Keeps the result of a limit for the headers of the answer. Returns an error, and counts it, if the limit is used up.
    fn record(&self, quota: &Quota, status: QuotaStatus) -> Result<(), Problem> {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.push((quota.policy(), quota.name(), status));
        let Some(seconds) = status.refused else {
            return Ok(());
        };
        RATE_LIMITED.with_label_values(&[quota.name()]).inc();
        let problem = match quota.name() {
            "failures" => "Too many requests with a wrong key were sent from this address",
            "address" => "Too many requests were sent from this address",
            "tenant" => "Too many requests were sent by this tenant",
            _ => "Too many requests were sent with this key",
        };
        let detail = format!("{problem}: repeat this one after {seconds} seconds.");
        Err(Problem::new(Code::RateLimited, detail).with("limit", quota.name()))
    }

    /// Writes `RateLimit-Policy` and `RateLimit`, and `Retry-After` if the request was refused.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut policies, mut limits) = (String::new(), String::new());
        for (policy, name, status) in &*results {
            let comma = if policies.is_empty() { "" } else { ", " };
            let QuotaStatus {
                remaining, reset, ..
            } = status;
            // Writing to a string does not fail.
            let _ = write!(policies, "{comma}{policy}");
            let _ = write!(limits, "{comma}\"{name}\";r={remaining};t={reset}");
        }
        for (name, value) in [(POLICY, policies), (LIMIT, limits)] {
            if let Some(value) = HeaderValue::try_from(value)
                .ok()
                .filter(|value| !value.is_empty())
            {
                headers.insert(name, value);
            }
        }
        let wait = results
            .iter()
            .filter_map(|(.., status)| status.refused)
            .max();
        if let Some(seconds) = wait {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
    }
}

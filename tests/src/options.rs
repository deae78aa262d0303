//! How a pipeline of a test starts, and the configuration that this makes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bucket::Address;
use common::config::{
    Config, DEFAULT_API_MEMORY, DEFAULT_MEMORY, Links, Logins, Ports, Providers, Rates, Timing,
    UnbilledLimits,
};
use domain::lanes::LaneTiming;
use fakes::Fake;
use ipnet::IpNet;
use secrecy::SecretString;

use crate::servers::TestServers;

/// The key of operators.
pub const OPERATOR_KEY: &str = "a key for operators, in tests only";

/// How a pipeline starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Credits of the first tenant.
    pub credits: i64,
    /// Workers that run from the start.
    pub workers: usize,
    /// Jobs that one worker works on at once.
    pub slots: usize,
    /// The share of the slots that one tenant may use, in percent.
    pub tenant_slots_percent: usize,
    /// Bytes of images that may wait for the bucket.
    pub spool: usize,
    /// Bytes of images that may wait for the bucket on disk.
    pub spool_disk: usize,
    /// Bytes that a worker may use.
    pub memory: usize,
    /// Bytes that the api may use.
    pub api_memory: usize,
    /// How long a lease lasts.
    pub lease: Duration,
    /// The first and the longest delay before a job is tried again.
    pub retry: (Duration, Duration),
    /// How long a lane is unavailable at first.
    pub closed: Duration,
    /// The folder of a catalogue that replaces the shipped one.
    pub models: Option<PathBuf>,
    /// The base URL of the vendors; `None` for the fake of the pipeline.
    pub vendors: Option<String>,
    /// The bucket; `None` for a folder of the pipeline.
    pub bucket: Option<Address>,
    /// The URL that clients use, if it is configured.
    pub public_url: Option<String>,
    /// Proxies whose headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// The limits of connections.
    pub ports: Ports,
    /// The limits of request rates; off by default, because tests ask as fast as they can.
    pub rates: Rates,
    /// The URL of Redis; `None` for the true one.
    pub redis: Option<String>,
    /// The file with the URL of Redis, if it changes.
    pub redis_url_file: Option<PathBuf>,
    /// What a tenant may use without paying.
    pub unbilled_limits: UnbilledLimits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            credits: 1_000,
            workers: 1,
            slots: 8,
            tenant_slots_percent: 100,
            spool: 256_000_000,
            spool_disk: 0,
            memory: DEFAULT_MEMORY,
            api_memory: DEFAULT_API_MEMORY,
            lease: Duration::from_secs(3),
            retry: (Duration::from_millis(20), Duration::from_millis(200)),
            closed: Duration::from_millis(500),
            models: None,
            vendors: None,
            bucket: None,
            public_url: None,
            trusted_proxies: Vec::new(),
            ports: Ports {
                // All clients of a test have the same address.
                per_address: Ports::default().connections,
                ..Ports::default()
            },
            rates: Rates::OFF,
            redis: None,
            redis_url_file: None,
            unbilled_limits: UnbilledLimits::default(),
        }
    }
}

impl Options {
    /// For long proofs: more credits than can be used, and leases as in production.
    pub fn in_earnest() -> Self {
        Self {
            credits: 100_000_000,
            lease: Timing::default().lease,
            unbilled_limits: UnbilledLimits {
                cancel_allowance: 1_000_000,
                ..UnbilledLimits::default()
            },
            ..Self::default()
        }
    }

    /// The configuration of api and workers on these servers. The bucket is `folder` and the vendors are `fake`, unless the
    /// options name others.
    pub(crate) fn config(
        self,
        servers: &TestServers,
        database: &str,
        folder: &Path,
        fake: &Fake,
    ) -> Config {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        Config {
            database_url: Some(SecretString::from(servers.runtime_url(database))),
            logins: Logins::default(),
            owner_url: Some(SecretString::from(servers.owner_url_of(database))),
            redis_url: Some(SecretString::from(
                self.redis.unwrap_or_else(|| servers.redis_url.clone()),
            )),
            redis_url_file: self.redis_url_file,
            queue: database.to_owned(),
            bucket: Some(
                self.bucket
                    .unwrap_or_else(|| Address::Folder(folder.to_owned())),
            ),
            previous_signing_key: None,
            signing_key: Some(SecretString::from("a key for tests, and for tests only")),
            master_keys: Some(
                format!("tests:{}", "5eed".repeat(16))
                    .parse()
                    .expect("a key"),
            ),
            private_networks: vec!["127.0.0.0/8".parse().expect("a network")],
            operator_key: Some(SecretString::from(OPERATOR_KEY)),
            links: Links::default(),
            listen: any_port,
            metrics_listen: any_port,
            cors_origins: vec!["https://studio.example".to_owned()],
            public_url: self.public_url,
            trusted_proxies: self.trusted_proxies,
            ports: self.ports,
            rates: self.rates,
            slots: self.slots,
            tenant_slots_percent: self.tenant_slots_percent,
            spool: self.spool,
            spool_disk: self.spool_disk,
            memory: self.memory,
            api_memory: self.api_memory,
            timing: Timing {
                lease: self.lease,
                probe_interval: Duration::from_millis(100),
                retain_every: Duration::from_millis(200),
                prune_every: Duration::from_millis(200),
                reap_every: Duration::from_millis(200),
                retry: self.retry,
                idle: Duration::from_secs(1),
                poll: (Duration::from_millis(50), Duration::from_millis(300)),
                lanes: LaneTiming {
                    breaker_open: (self.closed, self.closed * 4),
                    throttled: (Duration::from_millis(50), Duration::from_millis(500)),
                },
                grace: Duration::from_secs(10),
                ..Timing::default()
            },
            unbilled_limits: self.unbilled_limits,
            models: self.models,
            providers: Providers {
                wanted: None,
                google_project: None,
                fake: Some(self.vendors.unwrap_or_else(|| fake.base_url())),
            },
        }
    }
}

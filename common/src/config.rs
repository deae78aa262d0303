//! Configuration: one typed struct, read from the environment once, at the start of a process.
//!
//! `.env.example` lists every variable. `NAME_FILE` may name a file that holds the value, for
//! secrets. An unknown `PLATEN_…` variable is an error that names the most similar known one:
//! otherwise a typing mistake would silently mean the default.

mod ports;

use std::env;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

pub use bucket::LINKS;
use bucket::{Address, BadAddress, SigningKeys};
use domain::catalog::{Catalog, CatalogError};
pub use domain::lanes::LaneTiming; // the path of before
use domain::{allowance, storage_limit};
pub use ports::{Ports, Rate, Rates};
use storage::database::DatabaseRole; // the path of before

/// Every variable that Platen reads, with what it means and its default. Descriptions are
/// fragments: they are shown after the name.
pub const VARIABLES: &[(&str, &str)] = &[
    (
        "DATABASE_URL",
        "runtime login of PostgreSQL 15 or newer; without it `platen up` starts a private one",
    ),
    (
        "DATABASE_API_URL",
        "login for connections that act as platen_api; default DATABASE_URL",
    ),
    (
        "DATABASE_WORKER_URL",
        "login for connections that act as platen_worker; default DATABASE_URL",
    ),
    (
        "DATABASE_READER_URL",
        "login for connections that act as platen_reader; default DATABASE_URL",
    ),
    (
        "DATABASE_OWNER_URL",
        "login that migrates; only `platen migrate` and `platen up` use it",
    ),
    (
        "REDIS_URL",
        "Redis 7 or newer; without it `platen up` starts a private one. A file that REDIS_URL_FILE names is read for each connection",
    ),
    (
        "PLATEN_PROVIDERS",
        "providers whose models are offered, separated by commas; default vertex, or all in PLATEN_MODELS",
    ),
    (
        "GOOGLE_CLOUD_PROJECT",
        "Google Cloud project whose Vertex AI is called",
    ),
    ("GEMINI_API_KEY", "key of the Gemini Developer API"),
    ("OPENAI_API_KEY", "key of OpenAI"),
    (
        "PLATEN_BUCKET",
        "bucket for all files: a folder, s3://bucket/prefix or gs://bucket/prefix; without it `platen up` uses a folder in its data folder",
    ),
    (
        "PLATEN_LINKS",
        "what serves files: store, if it can sign links, or api; default store",
    ),
    (
        "PLATEN_LINK_SECONDS",
        "how long a link to a file works, 60 to 86400 seconds; default 900",
    ),
    (
        "AWS_ACCESS_KEY_ID",
        "access key of S3; without it a role is used, found as AWS's own programs find it",
    ),
    ("AWS_SECRET_ACCESS_KEY", "secret of AWS_ACCESS_KEY_ID"),
    ("AWS_REGION", "region of the bucket; default us-east-1"),
    (
        "AWS_ENDPOINT_URL",
        "URL of the S3 service, if it is not AWS",
    ),
    (
        "AWS_SERVER_SIDE_ENCRYPTION",
        "encryption at rest: AES256, aws:kms or aws:kms:dsse; default the bucket's own setting",
    ),
    ("AWS_SSE_KMS_KEY_ID", "key of AWS KMS to encrypt with"),
    (
        "PLATEN_SIGNING_KEY",
        "secret that signs links to files; at least 32 characters",
    ),
    (
        "PLATEN_SIGNING_KEY_PREVIOUS",
        "previous signing key, as long as clients have links that it signed; default none",
    ),
    (
        "PLATEN_OPERATOR_KEY",
        "key for /v1/admin, at least 32 characters; without it that API is off",
    ),
    (
        "PLATEN_LISTEN",
        "address of the API; default 127.0.0.1:8080",
    ),
    (
        "PLATEN_METRICS_LISTEN",
        "address of the metrics; default 127.0.0.1:9464",
    ),
    (
        "PLATEN_CORS_ORIGINS",
        "origins of web pages that may call the API, separated by commas; default none",
    ),
    (
        "PLATEN_PUBLIC_URL",
        "URL under which clients reach the API, such as https://pictures.example; default what a trusted proxy reports",
    ),
    (
        "PLATEN_TRUSTED_PROXIES",
        "addresses or networks of proxies whose Forwarded and X-Forwarded headers are trusted, separated by commas; default none",
    ),
    (
        "PLATEN_CONNECTIONS",
        "most connections to the API at once; default 4096",
    ),
    (
        "PLATEN_CONNECTIONS_PER_ADDRESS",
        "most of these from one address, except trusted proxies; default 256",
    ),
    (
        "PLATEN_METRICS_CONNECTIONS",
        "most connections to the metrics at once; default 64",
    ),
    (
        "PLATEN_BACKLOG",
        "connections that wait in the system to be accepted; default 1024",
    ),
    (
        "PLATEN_OPEN_FILES",
        "open files to ask the system for; default as many as it allows",
    ),
    (
        "PLATEN_HEAD_SECONDS",
        "how long the head of a request may take to arrive; default 10",
    ),
    (
        "PLATEN_IDLE_SECONDS",
        "how long a connection may be idle between two requests; default 75",
    ),
    (
        "PLATEN_BODY_SECONDS",
        "how long a body may take to arrive, besides one second for each 64 KiB, 1 to 60; default 30",
    ),
    (
        "PLATEN_WRITE_SECONDS",
        "how long a client may read nothing of its answer; default 30",
    ),
    (
        "PLATEN_RATE_ADDRESS",
        "requests of one address: per minute, and at once; 0 for no limit; default 18000,3000",
    ),
    (
        "PLATEN_RATE_FAILURES",
        "requests of one address with a wrong key; default 30,30",
    ),
    (
        "PLATEN_RATE_TENANT",
        "requests of one tenant; default 12000,2000",
    ),
    (
        "PLATEN_RATE_KEY",
        "requests with one key; default 12000,2000",
    ),
    (
        "PLATEN_SLOTS",
        "most jobs that one worker runs at once; default 16",
    ),
    (
        "PLATEN_TENANT_SLOTS_PERCENT",
        "share of a worker's slots that one tenant may have, times its weight, 1 to 100; default 100",
    ),
    (
        "PLATEN_MEMORY_MB",
        "memory that one worker may use, in MB; default 512",
    ),
    (
        "PLATEN_API_MEMORY_MB",
        "memory that one API process may use, in MB, 512 to 65536; default 512",
    ),
    (
        "PLATEN_SPOOL_MB",
        "memory for images that wait while the bucket is unavailable, in MB; default 256",
    ),
    (
        "PLATEN_LEASE_SECONDS",
        "how long a worker that died keeps its jobs; default 25",
    ),
    (
        "PLATEN_IDEMPOTENCY_HOURS",
        "how long a repeated request gets the first answer again, 1 to 8760; default 24",
    ),
    (
        "PLATEN_CANCEL_ALLOWANCE",
        "most calls that have begun and that one tenant may abandon in an hour; default 20",
    ),
    (
        "PLATEN_ABANDONED_COST_USD",
        "cost of the calls that one tenant abandons in an hour, in US dollars, above which operators are alerted; default 5",
    ),
    (
        "PLATEN_TENANT_STORAGE_MB",
        "most that one tenant may store in the bucket, in MB, 0 for no limit; default 50000",
    ),
    (
        "PLATEN_UNDELIVERED_INPUTS_DAYS",
        "longest time inputs of jobs that delivered nothing are kept, 0 for as long as the tenant wants; default 7",
    ),
    (
        "PLATEN_UNPAID_UPLOADS_DAYS",
        "longest time uploads of tenants that never paid are kept, 0 for as long as the tenant wants; default 30",
    ),
    (
        "PLATEN_QUEUE",
        "prefix of the keys in Redis; default platen",
    ),
    (
        "PLATEN_MODELS",
        "folder of model files that replaces the shipped catalogue",
    ),
    ("PLATEN_LOG", "what is logged, as in RUST_LOG; default info"),
    ("PLATEN_LOG_FORMAT", "text or json; default text"),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "collector that traces are sent to by OTLP over HTTP; without it none are sent",
    ),
];

/// Variables that `data/demo.env` sets for clients. Platen ignores them.
const CLIENT_VARIABLES: [&str; 2] = ["PLATEN_URL", "PLATEN_KEY"];

/// Default address of the API.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Default address of the metrics.
const DEFAULT_METRICS_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
/// Default memory of one worker, in bytes.
pub const MEMORY: usize = 512_000_000;
/// Default memory of one api process, in bytes.
pub const API_MEMORY: usize = 512_000_000;
/// Default size of the spool, in bytes.
const DEFAULT_SPOOL_BYTES: usize = 256_000_000;
/// Default length of a lease.
const DEFAULT_LEASE: Duration = Duration::from_secs(25);
/// Default time for which answers to idempotent requests are kept.
const DEFAULT_ANSWERS_KEPT: Duration = Duration::from_hours(24);

/// The configuration of a process. [`VARIABLES`] describes what each value means.
#[derive(Clone, Debug)]
pub struct Config {
    /// `DATABASE_URL`: the runtime login.
    pub database_url: Option<SecretString>,
    /// Logins for one database role each.
    pub logins: Logins,
    /// `DATABASE_OWNER_URL`: the login that migrates.
    pub owner_url: Option<SecretString>,
    /// `REDIS_URL`.
    pub redis_url: Option<SecretString>,
    /// `REDIS_URL_FILE`: a file that holds the URL of Redis, read for each connection.
    pub redis_url_file: Option<PathBuf>,
    /// `PLATEN_QUEUE`: prefix of the keys in Redis.
    pub queue: String,
    /// `PLATEN_BUCKET`.
    pub bucket: Option<Address>,
    /// `PLATEN_SIGNING_KEY`.
    pub signing_key: Option<SecretString>,
    /// `PLATEN_SIGNING_KEY_PREVIOUS`: signs nothing more; links that it has signed still work.
    pub previous_signing_key: Option<SecretString>,
    /// `PLATEN_OPERATOR_KEY`: the key of operators for `/v1/admin`.
    pub operator_key: Option<SecretString>,
    /// How files are served.
    pub links: Links,
    /// `PLATEN_LISTEN`: address of the API.
    pub listen: SocketAddr,
    /// `PLATEN_METRICS_LISTEN`: address of the metrics.
    pub metrics_listen: SocketAddr,
    /// `PLATEN_CORS_ORIGINS`: origins of web pages that may call the API.
    pub cors_origins: Vec<String>,
    /// `PLATEN_PUBLIC_URL`: the URL under which clients reach the API.
    pub public_url: Option<String>,
    /// `PLATEN_TRUSTED_PROXIES`: proxies whose `Forwarded` headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Limits on connections.
    pub ports: Ports,
    /// Limits on requests.
    pub rates: Rates,
    /// `PLATEN_SLOTS`: jobs that one worker runs at once.
    pub slots: usize,
    /// `PLATEN_TENANT_SLOTS_PERCENT`: share of a worker's slots for one tenant of weight 1, in
    /// percent.
    pub tenant_slots_percent: usize,
    /// `PLATEN_MEMORY_MB`, in bytes: memory of one worker, all in all.
    pub memory: usize,
    /// `PLATEN_API_MEMORY_MB`, in bytes: memory of one api process, all in all.
    pub api_memory: usize,
    /// `PLATEN_SPOOL_MB`, in bytes: images that may wait for the bucket.
    pub spool: usize,
    /// Intervals and delays.
    pub timing: Timing,
    /// Limits on what tenants may use without paying.
    pub unpaid: Unpaid,
    /// `PLATEN_MODELS`: a folder that replaces the shipped catalogue.
    pub models: Option<PathBuf>,
    /// The providers that are called.
    pub providers: Providers,
}

/// One login for each database role, so that a process that was broken into can act only as its own
/// roles. Where a login is not set `DATABASE_URL` is used.
#[derive(Clone, Debug, Default)]
pub struct Logins {
    /// `DATABASE_API_URL`.
    pub api: Option<SecretString>,
    /// `DATABASE_WORKER_URL`.
    pub worker: Option<SecretString>,
    /// `DATABASE_READER_URL`.
    pub reader: Option<SecretString>,
}

impl Logins {
    /// The login of a database role, where it has one of its own.
    pub fn of(&self, role: DatabaseRole) -> Option<&SecretString> {
        match role {
            DatabaseRole::Api => self.api.as_ref(),
            DatabaseRole::Worker => self.worker.as_ref(),
            DatabaseRole::Reader => self.reader.as_ref(),
        }
    }
}

/// How files are served.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// By our own api, even where the store signs links: for a store that clients cannot reach.
    pub ours: bool,
    /// How long a link works.
    pub lifetime: Duration,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            ours: false,
            lifetime: Duration::from_mins(15),
        }
    }
}

/// Limits on what one tenant may use without paying for it.
#[derive(Clone, Copy, Debug)]
pub struct Unpaid {
    /// Calls that have begun and that the tenant may abandon in an hour.
    pub cancel_allowance: u32,
    /// Cost of such calls in an hour above which operators are alerted, in millionths of a US
    /// dollar.
    pub abandoned_cost: i64,
    /// Bytes the tenant may store in the bucket; `None` for no limit.
    pub storage: Option<i64>,
    /// Longest time inputs of jobs that delivered nothing are kept; `None` for as long as the
    /// tenant wants.
    pub undelivered_inputs: Option<Duration>,
    /// Longest time uploads are kept if the tenant never paid; `None` for as long as the tenant
    /// wants.
    pub uploads: Option<Duration>,
}

const DAY: Duration = Duration::from_hours(24);

impl Default for Unpaid {
    fn default() -> Self {
        Self {
            cancel_allowance: allowance::DEFAULT,
            abandoned_cost: 5_000_000,
            storage: Some(storage_limit::DEFAULT),
            undelivered_inputs: Some(7 * DAY),
            uploads: Some(30 * DAY),
        }
    }
}

/// Intervals and delays. Only a few can be set by variables; tests shorten the others.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How long a lease lasts without being renewed. It is renewed three times in that time.
    pub lease: Duration,
    /// How often the dispatcher fills the ready queue.
    pub dispatch_every: Duration,
    /// How often expired leases and deadlines are handled.
    pub reap_every: Duration,
    /// How often a worker checks whether the bucket is available.
    pub look_every: Duration,
    /// How often the sweeper looks for objects that no row names.
    pub sweep_every: Duration,
    /// How old such an object must be: older than any upload may take.
    pub sweep_grace: Duration,
    /// How often the ledger is anchored, in whole seconds.
    pub anchor_every: Duration,
    /// How often files that are due are deleted.
    pub retain_every: Duration,
    /// How long answers to idempotent requests are kept, at least an hour.
    pub answers_kept: Duration,
    /// How often older answers are deleted.
    pub prune_every: Duration,
    /// First and longest delay before a job is tried again.
    pub retry: (Duration, Duration),
    /// How long a provider's answer may pause while it is read.
    pub idle: Duration,
    /// First and longest delay between two polls of a provider's operation.
    pub poll: (Duration, Duration),
    /// How long lanes are unavailable.
    pub lanes: LaneTiming,
    /// How long a worker that stops waits for its jobs. Longer than any model may take: a job that
    /// is cut off counts as crashed.
    pub grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: DEFAULT_LEASE,
            dispatch_every: Duration::from_millis(200),
            reap_every: Duration::from_secs(1),
            look_every: Duration::from_secs(1),
            sweep_every: Duration::from_hours(1),
            anchor_every: Duration::from_hours(1),
            retain_every: Duration::from_secs(5),
            answers_kept: DEFAULT_ANSWERS_KEPT,
            prune_every: Duration::from_mins(1),
            sweep_grace: Duration::from_hours(24),
            retry: (Duration::from_secs(1), Duration::from_mins(1)),
            idle: Duration::from_secs(30),
            poll: (Duration::from_secs(1), Duration::from_secs(10)),
            lanes: LaneTiming {
                closed: (Duration::from_secs(5), Duration::from_mins(1)),
                throttled: (Duration::from_millis(250), Duration::from_secs(30)),
            },
            grace: Duration::from_secs(190),
        }
    }
}

/// The providers that are called. Their keys are read when a worker starts, from the variables that
/// the catalogue names.
#[derive(Clone, Debug, Default)]
pub struct Providers {
    /// `PLATEN_PROVIDERS`; `None` where it is not set.
    pub wanted: Option<Vec<String>>,
    /// `GOOGLE_CLOUD_PROJECT`.
    pub google_project: Option<String>,
    /// Base URL of a fake that stands in for every vendor, started by `platen up`: no credentials
    /// are used, no AI model is called, and images are marked. Never read from the environment.
    pub fake: Option<String>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value is not valid.
    #[error("{name} is not usable: {problem}")]
    Unusable {
        /// The variable.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A required variable is not set.
    #[error("{name} is missing: {needed}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// What it must contain.
        needed: &'static str,
    },
    /// A `PLATEN_…` variable is not known.
    #[error("there is no variable {name}; did you mean {nearest}?")]
    Unknown {
        /// The variable.
        name: String,
        /// The most similar one that exists.
        nearest: &'static str,
    },
}

impl Config {
    /// Reads the configuration from the environment.
    ///
    /// # Errors
    /// A value is not valid, a file cannot be read, or a `PLATEN_…` variable is not known. Missing
    /// values are errors only where they are needed: see [`Self::bucket`] and others.
    pub fn from_env() -> Result<Self, ConfigError> {
        refuse_unknown(env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
        Ok(Self {
            database_url: text("DATABASE_URL")?.map(SecretString::from),
            logins: Logins {
                api: text("DATABASE_API_URL")?.map(SecretString::from),
                worker: text("DATABASE_WORKER_URL")?.map(SecretString::from),
                reader: text("DATABASE_READER_URL")?.map(SecretString::from),
            },
            owner_url: text("DATABASE_OWNER_URL")?.map(SecretString::from),
            redis_url: text("REDIS_URL")?.map(SecretString::from),
            redis_url_file: env::var_os("REDIS_URL_FILE").map(PathBuf::from),
            queue: text("PLATEN_QUEUE")?.unwrap_or_else(|| "platen".to_owned()),
            bucket: bucket()?,
            signing_key: long_secret("PLATEN_SIGNING_KEY")?,
            previous_signing_key: long_secret("PLATEN_SIGNING_KEY_PREVIOUS")?,
            operator_key: long_secret("PLATEN_OPERATOR_KEY")?,
            links: links()?,
            listen: parsed("PLATEN_LISTEN")?.unwrap_or(DEFAULT_LISTEN),
            metrics_listen: parsed("PLATEN_METRICS_LISTEN")?.unwrap_or(DEFAULT_METRICS_LISTEN),
            cors_origins: list("PLATEN_CORS_ORIGINS")?.unwrap_or_default(),
            public_url: text("PLATEN_PUBLIC_URL")?,
            trusted_proxies: networks("PLATEN_TRUSTED_PROXIES")?,
            ports: Ports::from_env()?,
            rates: Rates::from_env()?,
            slots: within("PLATEN_SLOTS", 1, 4_000)?
                .map_or(16, |slots| usize::try_from(slots).unwrap_or(16)),
            tenant_slots_percent: within("PLATEN_TENANT_SLOTS_PERCENT", 1, 100)?
                .map_or(100, |percent| usize::try_from(percent).unwrap_or(100)),
            memory: within("PLATEN_MEMORY_MB", 256, 65_536)?.map_or(MEMORY, |megabytes| {
                usize::try_from(megabytes * 1_000_000).unwrap_or(MEMORY)
            }),
            api_memory: within("PLATEN_API_MEMORY_MB", 512, 65_536)?
                .map_or(API_MEMORY, |megabytes| {
                    usize::try_from(megabytes * 1_000_000).unwrap_or(API_MEMORY)
                }),
            spool: within("PLATEN_SPOOL_MB", 0, 65_536)?.map_or(DEFAULT_SPOOL_BYTES, |megabytes| {
                usize::try_from(megabytes * 1_000_000).unwrap_or(DEFAULT_SPOOL_BYTES)
            }),
            timing: Timing {
                lease: within("PLATEN_LEASE_SECONDS", 3, 600)?
                    .map_or(DEFAULT_LEASE, Duration::from_secs),
                answers_kept: within("PLATEN_IDEMPOTENCY_HOURS", 1, 8_760)?
                    .map_or(DEFAULT_ANSWERS_KEPT, Duration::from_hours),
                ..Timing::default()
            },
            unpaid: unpaid()?,
            models: text("PLATEN_MODELS")?.map(PathBuf::from),
            providers: Providers {
                wanted: list("PLATEN_PROVIDERS")?,
                google_project: text("GOOGLE_CLOUD_PROJECT")?,
                fake: None,
            },
        })
    }

    /// Loads the models that are offered: of the shipped catalogue those of `PLATEN_PROVIDERS`, by
    /// default `vertex`; of a catalogue in `PLATEN_MODELS`, and of a fake, by default all.
    ///
    /// # Errors
    /// A model file is not valid, or a provider is not known.
    pub fn catalog(&self) -> Result<Catalog, CatalogError> {
        let by_default = ["vertex".to_owned()];
        let Providers { wanted, fake, .. } = &self.providers;
        let wanted = match wanted {
            Some(wanted) => Some(&wanted[..]),
            None if self.models.is_none() && fake.is_none() => Some(&by_default[..]),
            None => None,
        };
        Catalog::load(self.models.as_deref(), wanted)
    }

    /// Whether a URL of Postgres is set for every database role.
    pub fn names_postgres(&self) -> bool {
        DatabaseRole::ALL
            .into_iter()
            .all(|role| self.database_url(role).is_ok())
    }

    /// The URL of Postgres for connections that act as `role`.
    ///
    /// # Errors
    /// [`ConfigError::Missing`].
    pub fn database_url(&self, role: DatabaseRole) -> Result<&SecretString, ConfigError> {
        let login = self.logins.of(role).or(self.database_url.as_ref());
        login.ok_or(ConfigError::Missing {
            name: match role {
                DatabaseRole::Api => "DATABASE_API_URL or DATABASE_URL",
                DatabaseRole::Worker => "DATABASE_WORKER_URL or DATABASE_URL",
                DatabaseRole::Reader => "DATABASE_READER_URL or DATABASE_URL",
            },
            needed: "the runtime login of PostgreSQL, such as postgres://platen:…@host/platen",
        })
    }

    /// The URL of Redis.
    ///
    /// # Errors
    /// [`ConfigError::Missing`].
    pub fn redis_url(&self) -> Result<&SecretString, ConfigError> {
        self.redis_url.as_ref().ok_or(ConfigError::Missing {
            name: "REDIS_URL",
            needed: "Redis 7 or newer, such as redis://host:6379/0",
        })
    }

    /// The address of Redis: the file with its URL where one is named, because the URL may change.
    ///
    /// # Errors
    /// [`ConfigError::Missing`].
    pub fn redis(&self) -> Result<queue::Address, ConfigError> {
        Ok(match &self.redis_url_file {
            Some(file) => queue::Address::File(file.clone()),
            None => queue::Address::Url(self.redis_url()?.clone()),
        })
    }

    /// The address of the bucket. There is no default: a relative folder would be another one
    /// wherever a process is started.
    ///
    /// # Errors
    /// [`ConfigError::Missing`].
    pub fn bucket(&self) -> Result<Address, ConfigError> {
        self.bucket.clone().ok_or(ConfigError::Missing {
            name: "PLATEN_BUCKET",
            needed: "the bucket for all files: the absolute path of a folder, s3://bucket/prefix or gs://bucket/prefix; the same for every process",
        })
    }

    /// The keys that sign links, current and previous.
    ///
    /// # Errors
    /// [`ConfigError::Missing`].
    pub fn signing_keys(&self) -> Result<SigningKeys, ConfigError> {
        let current = SigningKeys::from(self.signing_key()?.clone());
        Ok(current.and_previous(self.previous_signing_key.clone()))
    }

    /// The key that signs links and anchors.
    ///
    /// # Errors
    /// [`ConfigError::Missing`].
    pub fn signing_key(&self) -> Result<&SecretString, ConfigError> {
        self.signing_key.as_ref().ok_or(ConfigError::Missing {
            name: "PLATEN_SIGNING_KEY",
            needed: "a secret of at least 32 characters, the same for every process",
        })
    }
}

fn long_secret(name: &str) -> Result<Option<SecretString>, ConfigError> {
    match secret_text(name)? {
        Some(key) if key.len() < 32 => Err(ConfigError::Unusable {
            name: name.to_owned(),
            problem: "it has fewer than 32 characters".to_owned(),
        }),
        key => Ok(key.map(SecretString::from)),
    }
}

fn unpaid() -> Result<Unpaid, ConfigError> {
    let by_default = Unpaid::default();
    // 0 turns the limit off.
    let days = |name, otherwise| -> Result<Option<Duration>, ConfigError> {
        Ok(match within(name, 0, 3_650)? {
            None => otherwise,
            Some(0) => None,
            Some(days) => Some(Duration::from_secs(days * DAY.as_secs())),
        })
    };
    let number = |name, min, max| -> Result<Option<i64>, ConfigError> {
        Ok(within(name, min, max)?.and_then(|value| i64::try_from(value).ok()))
    };
    Ok(Unpaid {
        cancel_allowance: within("PLATEN_CANCEL_ALLOWANCE", 0, 1_000_000)?
            .and_then(|calls| u32::try_from(calls).ok())
            .unwrap_or(by_default.cancel_allowance),
        abandoned_cost: number("PLATEN_ABANDONED_COST_USD", 1, 1_000_000)?
            .map_or(by_default.abandoned_cost, |dollars| dollars * 1_000_000),
        storage: match number("PLATEN_TENANT_STORAGE_MB", 0, 1_000_000_000)? {
            None => by_default.storage,
            Some(0) => None,
            Some(megabytes) => Some(megabytes * 1_000_000),
        },
        undelivered_inputs: days(
            "PLATEN_UNDELIVERED_INPUTS_DAYS",
            by_default.undelivered_inputs,
        )?,
        uploads: days("PLATEN_UNPAID_UPLOADS_DAYS", by_default.uploads)?,
    })
}

fn links() -> Result<Links, ConfigError> {
    const NAME: &str = "PLATEN_LINKS";
    let by_default = Links::default();
    Ok(Links {
        ours: match text(NAME)?.as_deref() {
            None | Some("store") => false,
            Some("api") => true,
            Some(other) => {
                return Err(ConfigError::Unusable {
                    name: NAME.to_owned(),
                    problem: format!("{other:?} is neither store nor api"),
                });
            }
        },
        lifetime: within(
            "PLATEN_LINK_SECONDS",
            LINKS.start().as_secs(),
            LINKS.end().as_secs(),
        )?
        .map_or(by_default.lifetime, Duration::from_secs),
    })
}

/// Reads `PLATEN_BUCKET`, and all variables of AWS and Google that are set: there are more than
/// [`VARIABLES`] lists. Those that it lists may also be in files.
fn bucket() -> Result<Option<Address>, ConfigError> {
    const NAME: &str = "PLATEN_BUCKET";
    let Some(address) = text(NAME)? else {
        return Ok(None);
    };
    let from_environment = env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let value = value.into_string().ok()?;
        is_of_bucket(&name).then_some((name, value))
    });
    let mut variables: Vec<(String, String)> = from_environment.collect();
    for (name, _) in VARIABLES.iter().filter(|(name, _)| is_of_bucket(name)) {
        if let Some(value) = text(name)? {
            variables.push(((*name).to_owned(), value));
        }
    }
    let unusable = |bad: BadAddress| ConfigError::Unusable {
        name: NAME.to_owned(),
        problem: bad.to_string(),
    };
    Address::parse(&address, variables)
        .map(Some)
        .map_err(unusable)
}

fn is_of_bucket(name: &str) -> bool {
    Address::VARIABLES
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Reads a secret from the variable `name`, or from the file that `name_FILE` names. For variables
/// that the catalogue names.
///
/// # Errors
/// It has white space around it, or a control character in it, or its file cannot be read.
pub fn secret(name: &str) -> Result<Option<SecretString>, ConfigError> {
    Ok(secret_text(name)?.map(SecretString::from))
}

/// Reads a secret as it will be sent. White space around it would be lost in a header, and white
/// space alone would be no secret.
fn secret_text(name: &str) -> Result<Option<String>, ConfigError> {
    let text = text(name)?;
    if let Some(problem) = text.as_deref().and_then(white_space) {
        return Err(ConfigError::Unusable {
            name: name.to_owned(),
            problem: problem.to_owned(),
        });
    }
    Ok(text)
}

/// What is wrong with the white space of a secret.
fn white_space(secret: &str) -> Option<&'static str> {
    if secret.trim().is_empty() {
        Some("it is blank")
    } else if secret.trim() != secret {
        Some("it begins or ends with white space")
    } else if secret.chars().any(char::is_control) {
        Some("it has a control character in it, such as the end of a line")
    } else {
        None
    }
}

/// Names separated by commas.
fn list(name: &str) -> Result<Option<Vec<String>>, ConfigError> {
    let list = text(name)?.unwrap_or_default();
    let items = list.split(',').map(|item| item.trim().to_owned());
    let items: Vec<String> = items.filter(|item| !item.is_empty()).collect();
    Ok((!items.is_empty()).then_some(items))
}

/// Networks separated by commas; a single address is a network of one.
fn networks(name: &str) -> Result<Vec<IpNet>, ConfigError> {
    let items = list(name)?.unwrap_or_default().into_iter();
    items
        .map(|item| {
            let address = item.parse::<IpAddr>().map(IpNet::from);
            address
                .or_else(|_| item.parse())
                .map_err(|_| ConfigError::Unusable {
                    name: name.to_owned(),
                    problem: format!(
                        "{item:?} is neither an address nor a network such as 10.0.0.0/8"
                    ),
                })
        })
        .collect()
}

/// The value of `name`, or the content of the file that `name_FILE` names. An empty value counts as
/// not set.
fn text(name: &str) -> Result<Option<String>, ConfigError> {
    let value = match env::var(format!("{name}_FILE")) {
        Ok(file) => std::fs::read_to_string(&file)
            .map(|text| text.trim_end().to_owned())
            .map_err(|error| ConfigError::Unusable {
                name: name.to_owned(),
                problem: format!("{file} cannot be read: {error}"),
            })?,
        Err(_) => env::var(name).unwrap_or_default(),
    };
    Ok((!value.is_empty()).then_some(value))
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(
    name: &'static str,
) -> Result<Option<T>, ConfigError> {
    text(name)?
        .map(|value| {
            value
                .parse()
                .map_err(|error: T::Err| ConfigError::Unusable {
                    name: name.to_owned(),
                    problem: format!("{value:?}: {error}"),
                })
        })
        .transpose()
}

/// A number from `min` to `max`.
fn within(name: &'static str, min: u64, max: u64) -> Result<Option<u64>, ConfigError> {
    match parsed(name)? {
        Some(value) if !(min..=max).contains(&value) => Err(ConfigError::Unusable {
            name: name.to_owned(),
            problem: format!("{value} is not from {min} to {max}"),
        }),
        value => Ok(value),
    }
}

/// Refuses `PLATEN_…` variables that are not known. The nearest one has the longest common prefix.
fn refuse_unknown(names: impl Iterator<Item = String>) -> Result<(), ConfigError> {
    for name in names {
        let is_named = |variable: &str| variable == name.strip_suffix("_FILE").unwrap_or(&name);
        if name.starts_with("PLATEN_")
            && !CLIENT_VARIABLES.contains(&name.as_str())
            && !name.starts_with("PLATEN_TEST_")
            && !VARIABLES.iter().any(|&(variable, _)| is_named(variable))
        {
            let common_prefix = |variable: &str| {
                variable
                    .bytes()
                    .zip(name.bytes())
                    .take_while(|(a, b)| a == b)
                    .count()
            };
            let nearest = VARIABLES
                .iter()
                .map(|&(variable, _)| variable)
                .max_by_key(|variable| common_prefix(variable))
                .unwrap_or("DATABASE_URL");
            return Err(ConfigError::Unknown { name, nearest });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_variable_is_refused_with_the_nearest() {
        let error = refuse_unknown(["PLATEN_SLOT".to_owned()].into_iter()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no variable PLATEN_SLOT; did you mean PLATEN_SLOTS?"
        );
        assert!(
            refuse_unknown(
                [
                    "PLATEN_SIGNING_KEY_FILE".to_owned(),
                    "PLATEN_URL".to_owned()
                ]
                .into_iter()
            )
            .is_ok()
        );
    }

    #[test]
    fn a_secret_has_no_white_space_around_it() {
        let spaces = " ".repeat(40);
        for (secret, problem) in [
            (spaces.as_str(), Some("it is blank")),
            (" a key", Some("it begins or ends with white space")),
            ("a key\t", Some("it begins or ends with white space")),
            (
                "a\nkey",
                Some("it has a control character in it, such as the end of a line"),
            ),
            ("a key", None),
        ] {
            assert_eq!(white_space(secret), problem, "{secret:?}");
        }
    }

    #[test]
    fn the_example_contains_every_variable() {
        let example = include_str!("../../.env.example");
        for (variable, _) in VARIABLES {
            assert!(
                example.contains(&format!("{variable}=")),
                ".env.example lacks {variable}"
            );
        }
    }
}

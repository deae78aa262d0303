//! Configuration: one typed struct, read from the environment once, at start.
//!
//! `.env.example` lists every variable. `NAME_FILE` may name a file that holds the value, for secrets. A
//! `PLATEN_…` variable nobody knows is refused with the nearest that exists, so that a typing mistake does not
//! silently become a default.

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

/// Every variable Platen reads, and what happens without it.
pub const VARIABLES: &[(&str, &str)] = &[
    (
        "DATABASE_URL",
        "runtime login of PostgreSQL 15 or newer; without it `platen up` starts its own",
    ),
    (
        "DATABASE_API_URL",
        "login of its own for what acts as platen_api; default DATABASE_URL",
    ),
    (
        "DATABASE_WORKER_URL",
        "login of its own for what acts as platen_worker; default DATABASE_URL",
    ),
    (
        "DATABASE_READER_URL",
        "login of its own for what acts as platen_reader; default DATABASE_URL",
    ),
    (
        "DATABASE_OWNER_URL",
        "login that migrates; only `platen migrate` and `platen up` use it",
    ),
    (
        "REDIS_URL",
        "Redis 7 or newer; without it `platen up` starts its own. A file that REDIS_URL_FILE names is read at each connection",
    ),
    (
        "PLATEN_PROVIDERS",
        "whose models are offered, separated by commas; default vertex, or everyone in PLATEN_MODELS",
    ),
    ("GOOGLE_CLOUD_PROJECT", "project whose Vertex AI is called"),
    ("GEMINI_API_KEY", "key of the Gemini Developer API"),
    ("OPENAI_API_KEY", "key of OpenAI"),
    (
        "PLATEN_BUCKET",
        "where objects are kept: a folder, s3://bucket/prefix or gs://bucket/prefix; without it `platen up` takes one in its data folder",
    ),
    (
        "PLATEN_LINKS",
        "who gives files out: store, where it can sign links, or api; default store",
    ),
    (
        "PLATEN_LINK_SECONDS",
        "how long a link to a file works, 60 to 86400; default 900",
    ),
    (
        "AWS_ACCESS_KEY_ID",
        "login to S3; without it a role is looked for, as AWS's own programs do",
    ),
    ("AWS_SECRET_ACCESS_KEY", "its secret"),
    ("AWS_REGION", "region of the bucket; default us-east-1"),
    ("AWS_ENDPOINT_URL", "who speaks S3, where it is not AWS"),
    (
        "AWS_SERVER_SIDE_ENCRYPTION",
        "AES256, aws:kms or aws:kms:dsse; default what the bucket does",
    ),
    ("AWS_SSE_KMS_KEY_ID", "key of AWS KMS to encrypt with"),
    (
        "PLATEN_SIGNING_KEY",
        "secret that signs links to files; at least 32 characters",
    ),
    (
        "PLATEN_SIGNING_KEY_PREVIOUS",
        "the signing key of before, while links it has signed are out; default none",
    ),
    (
        "PLATEN_OPERATOR_KEY",
        "key for /v1/admin, at least 32 characters; without it there are no operators",
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
        "origins of frontends that may call, separated by commas; default none",
    ),
    (
        "PLATEN_PUBLIC_URL",
        "where clients reach the API, such as https://pictures.example; default what a trusted proxy says",
    ),
    (
        "PLATEN_TRUSTED_PROXIES",
        "addresses or networks of proxies whose Forwarded and X-Forwarded headers are believed, separated by commas; default none",
    ),
    (
        "PLATEN_CONNECTIONS",
        "connections to the API at once; default 4096",
    ),
    (
        "PLATEN_CONNECTIONS_PER_ADDRESS",
        "of these, from one address, trusted proxies aside; default 256",
    ),
    (
        "PLATEN_METRICS_CONNECTIONS",
        "connections to the metrics at once; default 64",
    ),
    (
        "PLATEN_BACKLOG",
        "connections that wait in the system to be taken; default 1024",
    ),
    (
        "PLATEN_OPEN_FILES",
        "open files to ask the system for; default as many as it allows",
    ),
    (
        "PLATEN_HEAD_SECONDS",
        "how long the head of a request may take to come; default 10",
    ),
    (
        "PLATEN_IDLE_SECONDS",
        "how long a connection may be idle between two requests; default 75",
    ),
    (
        "PLATEN_BODY_SECONDS",
        "how long a body may take to come, beside a second for each 64 KiB, 1 to 60; default 30",
    ),
    (
        "PLATEN_WRITE_SECONDS",
        "how long a client may take nothing of its answer; default 30",
    ),
    (
        "PLATEN_RATE_ADDRESS",
        "requests of one address: a minute, and at once; 0 for no limit; default 18000,3000",
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
        "jobs one worker works on at once; default 16",
    ),
    (
        "PLATEN_TENANT_SLOTS_PERCENT",
        "share of a worker's slots one tenant may have, times its weight, 1 to 100; default 100",
    ),
    (
        "PLATEN_MEMORY_MB",
        "memory one worker may take, in MB; default 512",
    ),
    (
        "PLATEN_API_MEMORY_MB",
        "memory one API may take, in MB, 512 to 65536; default 512",
    ),
    (
        "PLATEN_SPOOL_MB",
        "memory for pictures that wait while the bucket is away, in MB; default 256",
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
        "calls that have begun and that one tenant may abandon in an hour; default 20",
    ),
    (
        "PLATEN_ABANDONED_COST_USD",
        "what calls that one tenant abandons in an hour may cost before operators are told, in US dollars; default 5",
    ),
    (
        "PLATEN_TENANT_STORAGE_MB",
        "what one tenant may keep in the bucket, in MB, 0 for no bound; default 50000",
    ),
    (
        "PLATEN_UNDELIVERED_INPUTS_DAYS",
        "how long inputs of jobs that delivered nothing are kept at most, 0 for as long as the tenant wants; default 7",
    ),
    (
        "PLATEN_UNPAID_UPLOADS_DAYS",
        "how long uploads of tenants that never paid are kept at most, 0 for as long as the tenant wants; default 30",
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
        "collector that traces are sent to by OTLP over HTTP; without it none are",
    ),
];

/// Set by `data/demo.env` for the client's side.
const THE_CLIENTS: [&str; 2] = ["PLATEN_URL", "PLATEN_KEY"];

/// Where the API listens when nothing else is said.
const API: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Where metrics are served when nothing else is said.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
/// What one worker may take when nothing else is said.
pub const MEMORY: usize = 512_000_000;
/// What one api may take when nothing else is said.
pub const API_MEMORY: usize = 512_000_000;
/// What may wait for the bucket when nothing else is said.
const SPOOL: usize = 256_000_000;
/// How long a claim is good when nothing else is said.
const LEASE: Duration = Duration::from_secs(25);
/// How long answers for repeated requests are kept when nothing else is said.
const ANSWERS_KEPT: Duration = Duration::from_hours(24);

/// What both binaries are told.
#[derive(Clone, Debug)]
pub struct Config {
    pub database_url: Option<SecretString>,
    /// Logins that act as one role each.
    pub logins: Logins,
    pub owner_url: Option<SecretString>,
    pub redis_url: Option<SecretString>,
    /// The file that holds the URL of Redis, where one is named: read anew at each connection.
    pub redis_url_file: Option<PathBuf>,
    pub queue: String,
    pub bucket: Option<Address>,
    pub signing_key: Option<SecretString>,
    /// Signs no more links; those it has signed still open their files.
    pub previous_signing_key: Option<SecretString>,
    /// What operators show to `/v1/admin`.
    pub operator_key: Option<SecretString>,
    pub links: Links,
    pub listen: SocketAddr,
    pub metrics_listen: SocketAddr,
    pub cors_origins: Vec<String>,
    /// Where clients reach the api, where that is said.
    pub public_url: Option<String>,
    /// Proxies that are believed.
    pub trusted_proxies: Vec<IpNet>,
    pub ports: Ports,
    pub rates: Rates,
    pub slots: usize,
    /// What one tenant of weight 1 may have of a worker's slots, in percent.
    pub tenant_slots_percent: usize,
    /// Bytes one worker may take, all in all.
    pub memory: usize,
    /// Bytes one api may take, all in all.
    pub api_memory: usize,
    /// Bytes of pictures that may wait for the bucket.
    pub spool: usize,
    pub timing: Timing,
    pub unpaid: Unpaid,
    pub models: Option<PathBuf>,
    pub providers: Providers,
}

/// One login for each role: a process that is broken into can then act as its own roles only. Where one is not said, `DATABASE_URL`
/// is used.
#[derive(Clone, Debug, Default)]
pub struct Logins {
    pub api: Option<SecretString>,
    pub worker: Option<SecretString>,
    pub reader: Option<SecretString>,
}

impl Logins {
    /// The login of a role, where it has one of its own.
    pub fn of(&self, role: DatabaseRole) -> Option<&SecretString> {
        match role {
            DatabaseRole::Api => self.api.as_ref(),
            DatabaseRole::Worker => self.worker.as_ref(),
            DatabaseRole::Reader => self.reader.as_ref(),
        }
    }
}

/// How files are given out.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// By our own api, even where the store could: for a store that clients do not reach.
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

/// What a tenant may use that it does not pay for.
#[derive(Clone, Copy, Debug)]
pub struct Unpaid {
    /// Calls that have begun and that one tenant may abandon in an hour.
    pub cancel_allowance: u32,
    /// What such calls of one tenant may cost in an hour before operators are told, in millionths of a US dollar.
    pub abandoned_cost: i64,
    /// Bytes one tenant may keep in the bucket; `None`: there is no bound.
    pub storage: Option<i64>,
    /// How long inputs of jobs that delivered nothing are kept at most.
    pub undelivered_inputs: Option<Duration>,
    /// How long uploads of tenants that never paid are kept at most.
    pub uploads: Option<Duration>,
}

const A_DAY: Duration = Duration::from_hours(24);

impl Default for Unpaid {
    fn default() -> Self {
        Self {
            cancel_allowance: allowance::DEFAULT,
            abandoned_cost: 5_000_000,
            storage: Some(storage_limit::DEFAULT),
            undelivered_inputs: Some(7 * A_DAY),
            uploads: Some(30 * A_DAY),
        }
    }
}

/// How often things happen. Tests shorten them.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How long a claim is good without being renewed; it is renewed three times as often.
    pub lease: Duration,
    /// How often the dispatcher tops up the ring.
    pub dispatch_every: Duration,
    /// How often leases and deadlines that ran out are looked for.
    pub reap_every: Duration,
    /// How often it is seen to whether the bucket is there.
    pub look_every: Duration,
    /// How often objects that no row names are looked for, and how old they must be: older than any upload may take.
    pub sweep_every: Duration,
    pub sweep_grace: Duration,
    /// How often the ledger is anchored, in whole seconds.
    pub anchor_every: Duration,
    /// How often files that are due are deleted.
    pub retain_every: Duration,
    /// How long answers for repeated requests are kept, at least an hour, and how often older ones are looked for.
    pub answers_kept: Duration,
    pub prune_every: Duration,
    /// First and longest delay before a job is tried again.
    pub retry: (Duration, Duration),
    /// How long an answer may pause while it is read.
    pub idle: Duration,
    /// First and longest delay between two looks at work a provider does in the background.
    pub poll: (Duration, Duration),
    pub lanes: LaneTiming,
    /// How long a stopping worker waits for its jobs; longer than any model may take, or they would count as crashed.
    pub grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: LEASE,
            dispatch_every: Duration::from_millis(200),
            reap_every: Duration::from_secs(1),
            look_every: Duration::from_secs(1),
            sweep_every: Duration::from_hours(1),
            anchor_every: Duration::from_hours(1),
            retain_every: Duration::from_secs(5),
            answers_kept: ANSWERS_KEPT,
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

/// Whose models are called. Keys are read when a worker starts, from the variables the catalogue names.
#[derive(Clone, Debug, Default)]
pub struct Providers {
    pub wanted: Option<Vec<String>>,
    pub google_project: Option<String>,
    /// Base URL of a fake that plays every vendor, started by `platen up`: no credentials are used, no AI model is
    /// called, and pictures are marked. Never read from the environment.
    pub fake: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{name} is not usable: {problem}")]
    Unusable { name: String, problem: String },
    #[error("{name} is missing: {needed}")]
    Missing {
        name: &'static str,
        needed: &'static str,
    },
    #[error("there is no variable {name}; did you mean {nearest}?")]
    Unknown { name: String, nearest: &'static str },
}

impl Config {
    /// Reads the environment.
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
            listen: parsed("PLATEN_LISTEN")?.unwrap_or(API),
            metrics_listen: parsed("PLATEN_METRICS_LISTEN")?.unwrap_or(METRICS),
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
            spool: within("PLATEN_SPOOL_MB", 0, 65_536)?.map_or(SPOOL, |megabytes| {
                usize::try_from(megabytes * 1_000_000).unwrap_or(SPOOL)
            }),
            timing: Timing {
                lease: within("PLATEN_LEASE_SECONDS", 3, 600)?.map_or(LEASE, Duration::from_secs),
                answers_kept: within("PLATEN_IDEMPOTENCY_HOURS", 1, 8_760)?
                    .map_or(ANSWERS_KEPT, Duration::from_hours),
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

    /// The models that are offered. Vertex AI comes first: of the shipped catalogue it is the only one nobody asked for.
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

    /// Whether it names a Postgres, for every role.
    pub fn names_postgres(&self) -> bool {
        DatabaseRole::ALL
            .into_iter()
            .all(|role| self.database_url(role).is_ok())
    }

    /// Where what acts as `role` connects.
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

    pub fn redis_url(&self) -> Result<&SecretString, ConfigError> {
        self.redis_url.as_ref().ok_or(ConfigError::Missing {
            name: "REDIS_URL",
            needed: "Redis 7 or newer, such as redis://host:6379/0",
        })
    }

    /// Where Redis is dialled: by the file where one is named, for its URL may change.
    pub fn redis(&self) -> Result<queue::Address, ConfigError> {
        Ok(match &self.redis_url_file {
            Some(file) => queue::Address::File(file.clone()),
            None => queue::Address::Url(self.redis_url()?.clone()),
        })
    }

    /// Where objects are kept. No folder is taken by default: it would be another one in each folder a process is started in.
    pub fn bucket(&self) -> Result<Address, ConfigError> {
        self.bucket.clone().ok_or(ConfigError::Missing {
            name: "PLATEN_BUCKET",
            needed: "where objects are kept: the whole path of a folder, s3://bucket/prefix or gs://bucket/prefix; the same for every process",
        })
    }

    /// The keys of links.
    pub fn signing_keys(&self) -> Result<SigningKeys, ConfigError> {
        let current = SigningKeys::from(self.signing_key()?.clone());
        Ok(current.and_previous(self.previous_signing_key.clone()))
    }

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
    // Zero is none.
    let days = |name, otherwise| -> Result<Option<Duration>, ConfigError> {
        Ok(match within(name, 0, 3_650)? {
            None => otherwise,
            Some(0) => None,
            Some(days) => Some(Duration::from_secs(days * A_DAY.as_secs())),
        })
    };
    let number = |name, least, most| -> Result<Option<i64>, ConfigError> {
        Ok(within(name, least, most)?.and_then(|value| i64::try_from(value).ok()))
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

/// With every variable of AWS and Google there is: stores have more of them than anybody lists.
fn bucket() -> Result<Option<Address>, ConfigError> {
    const NAME: &str = "PLATEN_BUCKET";
    let Some(address) = text(NAME)? else {
        return Ok(None);
    };
    let named = env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let value = value.into_string().ok()?;
        is_the_buckets(&name).then_some((name, value))
    });
    let mut variables: Vec<(String, String)> = named.collect();
    for (name, _) in VARIABLES.iter().filter(|(name, _)| is_the_buckets(name)) {
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

fn is_the_buckets(name: &str) -> bool {
    Address::VARIABLES
        .iter()
        .any(|begin| name.starts_with(begin))
}

/// A secret whose variable the catalogue names.
pub fn secret(name: &str) -> Result<Option<SecretString>, ConfigError> {
    Ok(secret_text(name)?.map(SecretString::from))
}

/// A secret as it is sent: white space around it would be lost on the way, and one of white space only would be no secret.
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

/// Networks separated by commas; an address is one of its own.
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

/// The value of `name`, or of the file that `name_FILE` names. Empty is missing.
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

fn within(name: &'static str, least: u64, most: u64) -> Result<Option<u64>, ConfigError> {
    match parsed(name)? {
        Some(value) if !(least..=most).contains(&value) => Err(ConfigError::Unusable {
            name: name.to_owned(),
            problem: format!("{value} is not within {least} to {most}"),
        }),
        value => Ok(value),
    }
}

fn refuse_unknown(names: impl Iterator<Item = String>) -> Result<(), ConfigError> {
    for name in names {
        let known = |known: &str| known == name.strip_suffix("_FILE").unwrap_or(&name);
        if name.starts_with("PLATEN_")
            && !THE_CLIENTS.contains(&name.as_str())
            && !name.starts_with("PLATEN_TEST_")
            && !VARIABLES.iter().any(|&(variable, _)| known(variable))
        {
            let likeness = |variable: &str| {
                variable
                    .bytes()
                    .zip(name.bytes())
                    .take_while(|(a, b)| a == b)
                    .count()
            };
            let nearest = VARIABLES
                .iter()
                .map(|&(variable, _)| variable)
                .max_by_key(|variable| likeness(variable))
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
    fn every_variable_stands_in_the_example() {
        let example = include_str!("../../.env.example");
        for (variable, _) in VARIABLES {
            assert!(
                example.contains(&format!("{variable}=")),
                ".env.example lacks {variable}"
            );
        }
    }
}

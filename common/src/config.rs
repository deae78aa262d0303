//! Configuration: one typed struct, read from the environment once, at the start of a process.
//!
//! `.env.example` lists every variable. For a secret, `NAME_FILE` may name a file that holds the
//! value. An unknown `PLATEN_…` variable is an error that names the most similar known variable.
//! Otherwise a typing mistake would silently mean the default.

mod files;
mod ports;
mod timing;
mod unbilled_limits;
mod values;
mod variables;

use std::env;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

use crate::keys::MasterKeys;
use bucket::{Address, SigningKeys};
use domain::catalog::{Catalog, CatalogError};
pub use domain::lanes::LaneTiming;
pub use files::Links;
use files::{bucket, links};
pub use ports::{Ports, Rate, Rates};
use storage::database::DatabaseRole;
pub use timing::Timing;
use timing::{DEFAULT_ANSWERS_KEPT, DEFAULT_LEASE};
pub use unbilled_limits::UnbilledLimits;
use unbilled_limits::unbilled_limits;
pub use values::secret;
use values::{list, long_secret, networks, parsed, parsed_secret, private_networks, text, within};
pub use variables::VARIABLES;
use variables::refuse_unknown;

/// Default address of the API.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Default address of the metrics.
const DEFAULT_METRICS_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
/// Default memory of one worker, in bytes.
pub const DEFAULT_MEMORY: usize = 512_000_000;
/// Default memory of one api process, in bytes.
pub const DEFAULT_API_MEMORY: usize = 512_000_000;
/// Default size of the spool, in bytes.
const DEFAULT_SPOOL_BYTES: usize = 256_000_000;

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
    /// `PLATEN_SIGNING_KEY_PREVIOUS`: no longer signs links, but links that it has signed still
    /// work.
    pub previous_signing_key: Option<SecretString>,
    /// `PLATEN_MASTER_KEYS`: encrypt secrets in the database, newest first.
    pub master_keys: Option<MasterKeys>,
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
    /// `PLATEN_PRIVATE_NETWORKS`: networks that addresses given by customers may lead to.
    pub private_networks: Vec<IpNet>,
    /// Limits on connections.
    pub ports: Ports,
    /// Limits on requests.
    pub rates: Rates,
    /// `PLATEN_SLOTS`: jobs that one worker runs at once.
    pub slots: usize,
    /// `PLATEN_TENANT_SLOTS_PERCENT`: share of a worker's slots for one tenant of weight 1, in
    /// percent.
    pub tenant_slots_percent: usize,
    /// `PLATEN_MEMORY_MB`, in bytes: total memory of one worker.
    pub memory: usize,
    /// `PLATEN_API_MEMORY_MB`, in bytes: total memory of one api process.
    pub api_memory: usize,
    /// `PLATEN_SPOOL_MB`, in bytes: the memory of one worker for images that wait for the bucket.
    pub spool: usize,
    /// `PLATEN_SPOOL_DISK_MB`, in bytes: the disk space of one worker for such images that find no
    /// memory.
    pub spool_disk: usize,
    /// Intervals and delays.
    pub timing: Timing,
    /// Limits on what tenants may use without paying.
    pub unbilled_limits: UnbilledLimits,
    /// `PLATEN_MODELS`: a folder that replaces the shipped catalogue.
    pub models: Option<PathBuf>,
    /// The providers that are called.
    pub providers: Providers,
}

/// URLs of one login for each database role, so that an attacker in one process can act only as
/// that process's own roles. `DATABASE_URL` is used for a role without a login of its own.
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
    /// The login of a database role; `None` if the role has no login of its own.
    pub fn for_role(&self, role: DatabaseRole) -> Option<&SecretString> {
        match role {
            DatabaseRole::Api => self.api.as_ref(),
            DatabaseRole::Worker => self.worker.as_ref(),
            DatabaseRole::Reader => self.reader.as_ref(),
        }
    }
}

/// The providers that are called. Their keys are read when a worker starts, from the variables that
/// the catalogue names.
#[derive(Clone, Debug, Default)]
pub struct Providers {
    /// `PLATEN_PROVIDERS`; `None` if it is not set.
    pub wanted: Option<Vec<String>>,
    /// `GOOGLE_CLOUD_PROJECT`.
    pub google_project: Option<String>,
    /// Base URL of a fake vendor, which `platen up` starts and which answers for every provider.
    /// Then no credentials are used, no AI model is called, and images are marked as synthetic.
    /// Never read from the environment.
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
    /// Returns an error if a value is not valid, if a file cannot be read, or if a `PLATEN_…`
    /// variable is not known. A missing value is an error only in the method that needs it, such as
    /// [`Self::bucket`].
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
            master_keys: parsed_secret("PLATEN_MASTER_KEYS")?,
            operator_key: long_secret("PLATEN_OPERATOR_KEY")?,
            links: links()?,
            listen: parsed("PLATEN_LISTEN")?.unwrap_or(DEFAULT_LISTEN),
            metrics_listen: parsed("PLATEN_METRICS_LISTEN")?.unwrap_or(DEFAULT_METRICS_LISTEN),
            cors_origins: list("PLATEN_CORS_ORIGINS")?.unwrap_or_default(),
            public_url: text("PLATEN_PUBLIC_URL")?,
            trusted_proxies: networks("PLATEN_TRUSTED_PROXIES")?,
            private_networks: private_networks("PLATEN_PRIVATE_NETWORKS")?,
            ports: Ports::from_env()?,
            rates: Rates::from_env()?,
            slots: within("PLATEN_SLOTS", 1, 4_000)?
                .map_or(16, |slots| usize::try_from(slots).unwrap_or(16)),
            tenant_slots_percent: within("PLATEN_TENANT_SLOTS_PERCENT", 1, 100)?
                .map_or(100, |percent| usize::try_from(percent).unwrap_or(100)),
            memory: within("PLATEN_MEMORY_MB", 160, 65_536)?.map_or(DEFAULT_MEMORY, |megabytes| {
                usize::try_from(megabytes * 1_000_000).unwrap_or(DEFAULT_MEMORY)
            }),
            api_memory: within("PLATEN_API_MEMORY_MB", 512, 65_536)?
                .map_or(DEFAULT_API_MEMORY, |megabytes| {
                    usize::try_from(megabytes * 1_000_000).unwrap_or(DEFAULT_API_MEMORY)
                }),
            spool: within("PLATEN_SPOOL_MB", 0, 65_536)?.map_or(DEFAULT_SPOOL_BYTES, |megabytes| {
                usize::try_from(megabytes * 1_000_000).unwrap_or(DEFAULT_SPOOL_BYTES)
            }),
            spool_disk: within("PLATEN_SPOOL_DISK_MB", 0, 1_000_000)?.map_or(0, |megabytes| {
                usize::try_from(megabytes * 1_000_000).unwrap_or_default()
            }),
            timing: Timing {
                lease: within("PLATEN_LEASE_SECONDS", 3, 600)?
                    .map_or(DEFAULT_LEASE, Duration::from_secs),
                idempotency_retention: within("PLATEN_IDEMPOTENCY_HOURS", 1, 8_760)?
                    .map_or(DEFAULT_ANSWERS_KEPT, Duration::from_hours),
                ..Timing::default()
            },
            unbilled_limits: unbilled_limits()?,
            models: text("PLATEN_MODELS")?.map(PathBuf::from),
            providers: Providers {
                wanted: list("PLATEN_PROVIDERS")?,
                google_project: text("GOOGLE_CLOUD_PROJECT")?,
                fake: None,
            },
        })
    }

    /// Loads the models that are offered. `PLATEN_PROVIDERS` names the providers. By default this
    /// is `vertex` for the shipped catalogue, and all providers for a catalogue in `PLATEN_MODELS`
    /// or with a fake vendor.
    ///
    /// # Errors
    /// Returns an error if a model file is not valid, or if a provider is not known.
    pub fn catalog(&self) -> Result<Catalog, CatalogError> {
        let defaults = ["vertex".to_owned()];
        let Providers { wanted, fake, .. } = &self.providers;
        let wanted = match wanted {
            Some(wanted) => Some(&wanted[..]),
            None if self.models.is_none() && fake.is_none() => Some(&defaults[..]),
            None => None,
        };
        Catalog::load(self.models.as_deref(), wanted)
    }

    /// Whether the configuration names a URL of Postgres for every database role.
    pub fn has_database_urls(&self) -> bool {
        DatabaseRole::ALL
            .iter()
            .all(|role| self.database_url(*role).is_ok())
    }

    /// Whether the configuration names a URL of Postgres for at least one database role.
    pub fn has_database_url(&self) -> bool {
        DatabaseRole::ALL
            .iter()
            .any(|role| self.database_url(*role).is_ok())
    }

    /// The URL of Postgres for connections that act as `role`.
    ///
    /// # Errors
    /// Returns [`ConfigError::Missing`] if neither the role's own variable nor `DATABASE_URL` is
    /// set.
    pub fn database_url(&self, role: DatabaseRole) -> Result<&SecretString, ConfigError> {
        let login = self.logins.for_role(role).or(self.database_url.as_ref());
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
    /// Returns [`ConfigError::Missing`] if the variable is not set.
    pub fn redis_url(&self) -> Result<&SecretString, ConfigError> {
        self.redis_url.as_ref().ok_or(ConfigError::Missing {
            name: "REDIS_URL",
            needed: "Redis 7 or newer, such as redis://host:6379/0",
        })
    }

    /// The address of Redis. If `REDIS_URL_FILE` is set, this is the path of the file and not its
    /// present content, because the URL may change.
    ///
    /// # Errors
    /// Returns [`ConfigError::Missing`] if neither variable is set.
    pub fn redis(&self) -> Result<queue::Address, ConfigError> {
        Ok(match &self.redis_url_file {
            Some(file) => queue::Address::File(file.clone()),
            None => queue::Address::Url(self.redis_url()?.clone()),
        })
    }

    /// The address of the bucket. There is no default, because a relative folder would be a
    /// different one for each working directory.
    ///
    /// # Errors
    /// Returns [`ConfigError::Missing`] if the variable is not set.
    pub fn bucket(&self) -> Result<Address, ConfigError> {
        self.bucket.clone().ok_or(ConfigError::Missing {
            name: "PLATEN_BUCKET",
            needed: "the bucket for all files: the absolute path of a folder, s3://bucket/prefix or gs://bucket/prefix; the same for every process",
        })
    }

    /// The keys that sign links, current and previous.
    ///
    /// # Errors
    /// Returns [`ConfigError::Missing`] if the variable is not set.
    pub fn signing_keys(&self) -> Result<SigningKeys, ConfigError> {
        let current = SigningKeys::from(self.signing_key()?.clone());
        Ok(current.and_previous(self.previous_signing_key.clone()))
    }

    /// The master keys.
    ///
    /// # Errors
    /// Returns [`ConfigError::Missing`] if the variable is not set.
    pub fn master_keys(&self) -> Result<&MasterKeys, ConfigError> {
        self.master_keys.as_ref().ok_or(ConfigError::Missing {
            name: "PLATEN_MASTER_KEYS",
            needed: "a name and a key such as 2026:…, the key made by `openssl rand -hex 32`; the same for every process",
        })
    }

    /// The key that signs links and anchors.
    ///
    /// # Errors
    /// Returns [`ConfigError::Missing`] if the variable is not set.
    pub fn signing_key(&self) -> Result<&SecretString, ConfigError> {
        self.signing_key.as_ref().ok_or(ConfigError::Missing {
            name: "PLATEN_SIGNING_KEY",
            needed: "a secret of at least 32 characters, the same for every process",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::values::secret_problem;
    use super::*;

    #[test]
    fn a_mistyped_variable_is_refused_with_the_nearest() {
        for (name, nearest) in [
            ("PLATEN_SLOT", "PLATEN_SLOTS"),
            ("PLATEN_LSOTS", "PLATEN_SLOTS"),
            ("PLATEN_SINGING_KEY", "PLATEN_SIGNING_KEY"),
            ("PLATEN_SIGNIN_KEY_FILE", "PLATEN_SIGNING_KEY"),
            ("PLATEN_S3_BUCKET", "PLATEN_BUCKET"),
            ("PLATEN_REDIS_URL", "REDIS_URL"),
        ] {
            let error = refuse_unknown([name.to_owned()].into_iter()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("there is no variable {name}; did you mean {nearest}?")
            );
        }
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
            assert_eq!(secret_problem(secret), problem, "{secret:?}");
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

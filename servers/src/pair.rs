//! The Postgres and the Redis of one data folder, started and stopped together.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use anyhow::{Error, Result};

use crate::{
    home,
    postgres::{Durability, Postgres},
    redis::Redis,
    urls::{LoginUrls, Urls, urls_file},
};

/// How often both servers are checked for having ended.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A private Postgres and a private Redis, both ready.
///
/// Dropping this value ends both at once. That loses no committed data, but the next start takes longer because
/// Postgres has to recover. [`Servers::stop`] ends both cleanly.
pub struct Servers {
    postgres: Postgres,
    redis: Redis,
    urls: Urls,
    /// The lock on the data folder, see [`urls_file`]. This field is the last one, so that the lock is released after
    /// the servers have ended.
    _lock: File,
}

impl Servers {
    /// Starts both servers with their data under `data`, which is created if it is missing.
    ///
    /// # Errors
    ///
    /// Returns an error if another Platen uses the folder, if a server is not installed, or if a server does not start.
    pub async fn start(data: &Path) -> Result<Self> {
        Self::start_with(data, Durability::Full).await
    }

    /// Like [`Servers::start`], with a choice between durability and speed.
    ///
    /// # Errors
    ///
    /// Returns an error if another Platen uses the folder, if a server is not installed, or if a server does not start.
    pub async fn start_with(data: &Path, durability: Durability) -> Result<Self> {
        home::create(data)?;
        let mut lock = home::lock(&urls_file(data), data).await?;
        home::allow_servers_through(data)?;

        let (postgres, redis) = (postgres_folder(data), data.join("redis"));
        let (postgres, redis) = tokio::try_join!(
            Postgres::start_with(&postgres, durability),
            Redis::start(&redis)
        )?;

        let urls = Urls {
            pid: process::id(),
            database_url: postgres.database_url(),
            logins: Some(postgres.logins()),
            owner_url: postgres.owner_url(),
            redis_url: redis.url(),
        };
        lock.write_all(&serde_json::to_vec_pretty(&urls)?)?;

        Ok(Self {
            postgres,
            redis,
            urls,
            _lock: lock,
        })
    }

    /// The URL of the runtime login: `postgres://platen:…@127.0.0.1:…/platen`.
    pub fn database_url(&self) -> &str {
        &self.urls.database_url
    }

    /// The URLs of logins that act as one role each. They work once the database has been migrated with them.
    pub fn logins(&self) -> LoginUrls {
        self.postgres.logins()
    }

    /// The URL of the login that owns and migrates the database: `postgres://platen_admin:…@127.0.0.1:…/platen`.
    pub fn owner_url(&self) -> &str {
        &self.urls.owner_url
    }

    /// The URL of Redis: `redis://default:…@127.0.0.1:…/0`.
    pub fn redis_url(&self) -> &str {
        &self.urls.redis_url
    }

    /// Postgres alone, for tests that crash and restart it.
    pub fn postgres(&mut self) -> &mut Postgres {
        &mut self.postgres
    }

    /// Redis alone, for tests that crash and restart it.
    pub fn redis(&mut self) -> &mut Redis {
        &mut self.redis
    }

    /// Watches both servers. Returns an error when Postgres has ended by itself, which should never happen.
    ///
    /// If Redis has ended, it is started again, empty. Everything in it can be rebuilt from Postgres.
    pub async fn wait_for_failure(&mut self) -> Error {
        loop {
            if let Some(error) = self.postgres.failure() {
                return error;
            }
            if let Some(error) = self.redis.failure() {
                tracing::warn!("{error:#}; Redis is started again");
                if let Err(error) = self.redis.start_again().await {
                    return error;
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Stops both servers, and returns when they have ended.
    pub async fn stop(self) {
        tokio::join!(self.postgres.stop(), self.redis.stop());
    }
}

/// Where the private Postgres of a data folder keeps its data.
pub(crate) fn postgres_folder(data: &Path) -> PathBuf {
    data.join("postgres")
}

//! The Postgres of a data folder, for commands that run beside a Platen or without one.

use std::path::Path;

use anyhow::{Result, bail};

use crate::{
    pair::postgres_folder,
    postgres::Postgres,
    urls::{Urls, running_urls},
};

/// The database of a data folder, whether a Platen runs there or not. Commands with `--data` use it.
pub struct Database {
    runtime_url: String,
    owner_url: String,
    /// The Postgres that [`Database::open`] started. `None` if a Postgres was already running.
    started: Option<Postgres>,
}

impl Database {
    /// Connects to the Platen that runs on `data`, or else starts its Postgres.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no Platen data in `data` (nothing is created then), if a Platen is just starting
    /// there, or if Postgres does not start.
    pub async fn open(data: &Path) -> Result<Self> {
        if let Some(Urls {
            database_url,
            owner_url,
            ..
        }) = running_urls(data)?
        {
            return Ok(Self {
                runtime_url: database_url,
                owner_url,
                started: None,
            });
        }
        let folder = postgres_folder(data);
        if !folder.is_dir() {
            bail!("there is no Platen data in {}", data.display());
        }
        let postgres = Postgres::start(&folder).await?;
        Ok(Self {
            runtime_url: postgres.database_url(),
            owner_url: postgres.owner_url(),
            started: Some(postgres),
        })
    }

    /// The URL of the runtime login.
    pub fn database_url(&self) -> &str {
        &self.runtime_url
    }

    /// The URL of the login that owns the database.
    pub fn owner_url(&self) -> &str {
        &self.owner_url
    }

    /// Stops the Postgres that [`Database::open`] started. A Postgres that was running before keeps running.
    pub async fn close(self) {
        if let Some(postgres) = self.started {
            postgres.stop().await;
        }
    }
}

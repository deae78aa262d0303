//! The Postgres of a data folder, for commands that run beside a Platen or without one.

use std::path::Path;

use anyhow::{Result, bail};

use crate::{
    pair::postgres_folder,
    postgres::Postgres,
    urls::{Urls, urls_of_running},
};

/// The database of a data folder, whether a Platen runs there or not. `platen verify --data` uses it.
pub struct Database {
    runtime: String,
    owner: String,
    /// The Postgres that was started for this; `None` if one was running.
    started: Option<Postgres>,
}

impl Database {
    /// Connects to the Platen that runs on `data`, or else starts its Postgres.
    ///
    /// # Errors
    ///
    /// There is no Platen data in `data` (nothing is created then), a Platen is just starting there, or Postgres does
    /// not start.
    pub async fn open(data: &Path) -> Result<Self> {
        if let Some(Urls {
            database_url,
            owner_url,
            ..
        }) = urls_of_running(data)?
        {
            return Ok(Self {
                runtime: database_url,
                owner: owner_url,
                started: None,
            });
        }
        let folder = postgres_folder(data);
        if !folder.is_dir() {
            bail!("there is no Platen data in {}", data.display());
        }
        let postgres = Postgres::start(&folder).await?;
        Ok(Self {
            runtime: postgres.database_url(),
            owner: postgres.owner_url(),
            started: Some(postgres),
        })
    }

    /// The URL of the runtime login.
    pub fn database_url(&self) -> &str {
        &self.runtime
    }

    /// The URL of the login that owns the database.
    pub fn owner_url(&self) -> &str {
        &self.owner
    }

    /// Stops the Postgres that [`Database::open`] started; a Postgres that was running before keeps running.
    pub async fn close(self) {
        if let Some(postgres) = self.started {
            postgres.stop().await;
        }
    }
}

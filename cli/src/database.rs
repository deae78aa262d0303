//! Opens the database and the bucket that a command works on.

use std::path::Path;

use anyhow::{Context, ensure};
use bucket::{Address, Bucket};
use common::config::Config;
use secrecy::{ExposeSecret, SecretString};
use servers::Database;
use sqlx::PgPool;
use storage::database::{self, DatabaseRole};

/// The data folder that is used if no database is configured and no folder is named.
pub(crate) const DEFAULT_DATA: &str = "data";

/// Connects to the database with a role, and runs `work` on the connections.
///
/// If `data` is given, the database is the one in this data folder. Otherwise it is the configured one, or the one in `./data` if
/// none is configured. A Postgres that was started for this is stopped again, however the work ends.
///
/// # Errors
///
/// Returns an error if a database is configured for other roles only, if it cannot be reached or is not up to date, or if `work` fails.
pub(crate) async fn with_connection<T>(
    config: &Config,
    data: Option<&Path>,
    role: DatabaseRole,
    work: impl AsyncFnOnce(&PgPool) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (url, private_database) = if works_in_folder(config, data) {
        let database = Database::open(folder(data)).await?;
        (database.database_url().to_owned(), Some(database))
    } else {
        (config.database_url(role)?.expose_secret().to_owned(), None)
    };
    let result = async {
        let pool = database::connect(&url, role, 2)
            .await
            .context("cannot reach Postgres")?;
        ensure!(
            database::is_migrated(&pool).await?,
            "the database is not up to date: run `platen migrate`, or `platen up` once"
        );
        let result = work(&pool).await;
        pool.close().await;
        result
    }
    .await;
    if let Some(database) = private_database {
        database.close().await;
    }
    result
}

/// Opens the configured bucket, or else the bucket in the data folder `data` (by default ./data) of a `platen up`. Also returns the
/// bucket's address. The bucket cannot sign links.
///
/// # Errors
///
/// Returns an error if no bucket is configured, or if its address is not usable.
pub(crate) fn open_bucket(
    config: &Config,
    data: Option<&Path>,
) -> anyhow::Result<(Address, Bucket)> {
    let address = match &config.bucket {
        None if works_in_folder(config, data) => Address::Folder(folder(data).join("bucket")),
        _ => config.bucket()?,
    };
    let bucket = Bucket::open(&address, SecretString::default())
        .context("there is no bucket: set PLATEN_BUCKET")?;
    Ok((address, bucket))
}

/// Whether a command works on the database and the bucket of a data folder: a folder is named, or no database is configured.
pub(crate) fn works_in_folder(config: &Config, data: Option<&Path>) -> bool {
    data.is_some() || !config.has_database_url()
}

/// The named data folder, or the default one.
pub(crate) fn folder(data: Option<&Path>) -> &Path {
    data.unwrap_or_else(|| Path::new(DEFAULT_DATA))
}

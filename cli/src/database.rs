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
/// Returns an error if the database cannot be reached or is not up to date, or if `work` fails.
pub(crate) async fn with_connection<T>(
    config: &Config,
    data: Option<&Path>,
    role: DatabaseRole,
    work: impl AsyncFnOnce(&PgPool) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (url, private_database) = match (data, config.database_url(role)) {
        (None, Ok(url)) => (url.expose_secret().to_owned(), None),
        (data, _) => {
            let database = Database::open(folder(data)).await?;
            (database.database_url().to_owned(), Some(database))
        }
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
        // The database is that of the data folder, so its bucket is there, too.
        None if data.is_some() || config.database_url.is_none() => {
            Address::Folder(folder(data).join("bucket"))
        }
        _ => config.bucket()?,
    };
    let bucket = Bucket::open(&address, SecretString::default())
        .context("there is no bucket: set PLATEN_BUCKET")?;
    Ok((address, bucket))
}

/// The named data folder, or the default one.
pub(crate) fn folder(data: Option<&Path>) -> &Path {
    data.unwrap_or_else(|| Path::new(DEFAULT_DATA))
}

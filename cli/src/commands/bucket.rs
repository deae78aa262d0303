//! `platen bucket adopt`: makes a bucket the one that belongs to the database.

use bucket::{Address, Bucket};
use clap::Subcommand;
use common::config::Config;
use common::files::ownership::{self, AdoptError, AdoptResult};
use domain::operator::Actor;
use secrecy::SecretString;
use sqlx::PgPool;
use storage::database::DatabaseRole;

use crate::arguments::{DatabaseArgs, NO_REASON, OptionalReasonArgs};
use crate::database::{open_bucket, with_connection};
use crate::{actor, say};

/// The commands about the bucket.
#[derive(Subcommand)]
pub enum BucketCommand {
    /// Make the configured bucket the one of this database, by a marker that is written into it. Without the marker no file
    /// is deleted. Run it once, and with `--replace` after the files were moved to another bucket.
    Adopt {
        /// Also adopt a bucket whose marker names another database, or another bucket than before.
        #[arg(long)]
        replace: bool,
        /// Adopt only if the database has no tenants and no bucket, else do nothing. For a step that runs with each
        /// installation.
        #[arg(long, conflicts_with = "replace")]
        if_new: bool,
        /// The reason, which is recorded.
        #[command(flatten)]
        reason: OptionalReasonArgs,
        /// The database to work on.
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

/// Runs the command and prints its result.
///
/// # Errors
///
/// Returns an error if the bucket belongs to another database, or this database has adopted another bucket, and `--replace` is not
/// given; if the reason is not usable; if the bucket or the database cannot be reached; or if the database is not up to date.
pub async fn run(config: &Config, command: BucketCommand) -> anyhow::Result<()> {
    let BucketCommand::Adopt {
        replace,
        if_new,
        reason,
        database,
    } = command;
    let by = actor::name();
    let actor = reason.actor_for(&by, NO_REASON)?;
    let data = database.data_folder();
    let (address, bucket) = open_bucket(config, data)?;
    if if_new {
        let is_new = async |reader: &PgPool| Ok(ownership::is_new(reader).await?);
        if !with_connection(config, data, DatabaseRole::Reader, is_new).await? {
            say!(
                "nothing was done: the database is not new. If it has not adopted its bucket yet, run `platen bucket adopt` without `--if-new`"
            )?;
            return Ok(());
        }
    }
    let adopt = async |pool: &PgPool| {
        Ok(ownership::adopt(pool, &bucket, &address.to_string(), actor, replace).await?)
    };
    match with_connection(config, data, DatabaseRole::Api, adopt).await? {
        AdoptResult::Now => say!("adopted")?,
        AdoptResult::Before => say!("it was adopted before")?,
    }
    Ok(())
}

/// Lets a new database adopt its bucket, for `platen up`. Does nothing for a database that is not new, because it may have files in
/// another bucket.
///
/// # Errors
///
/// Returns an error if the bucket or the database cannot be reached.
pub(crate) async fn adopt_if_new(
    reader: &PgPool,
    pool: &PgPool,
    address: &Address,
) -> anyhow::Result<()> {
    address.make_folder()?;
    if !ownership::is_new(reader).await? {
        return Ok(());
    }
    let actor = Actor {
        by: "platen up",
        reason: "the database is new",
    };
    // No link is signed here, so no key is needed.
    let bucket = Bucket::open(address, SecretString::default())?;
    match ownership::adopt(pool, &bucket, &address.to_string(), actor, false).await {
        // The bucket has the marker of another database, perhaps of one that no longer exists. A person must decide whether files
        // in it may be deleted.
        Err(error @ AdoptError::AnothersMarker(_)) => tracing::warn!("{error}"),
        adopted => drop(adopted?),
    }
    Ok(())
}

//! `platen bucket adopt`: which bucket is the database's.

use std::path::Path;

use common::bucket::{Address, Bucket};
use common::config::Config;
use common::database::DatabaseRole;
use common::operator::Actor;
use common::ownership::{self, AdoptError, Adopted};
use secrecy::SecretString;
use sqlx::PgPool;

use crate::admin;

/// Which buckets may be adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptMode {
    /// One without a marker, by a database that has none.
    Once,
    /// Any.
    Replace,
    /// The same as `Once`, and only by a database without tenants.
    IfNew,
}

/// Adopts the configured bucket; returns what was done, in words.
pub async fn adopt(
    config: &Config,
    data: Option<&Path>,
    act: Actor<'_>,
    how: AdoptMode,
) -> anyhow::Result<&'static str> {
    let (address, bucket) = admin::bucket_of(config, data)?;
    if how == AdoptMode::IfNew {
        let is_new = async |reader: &PgPool| Ok(ownership::is_new(reader).await?);
        if !admin::at(config, data, DatabaseRole::Reader, is_new).await? {
            return Ok(
                "nothing was done: the database is not new, and `platen bucket adopt` is for people then",
            );
        }
    }
    admin::at(config, data, DatabaseRole::Api, async |pool| {
        let replace = how == AdoptMode::Replace;
        let adopted = ownership::adopt(pool, &bucket, &address.to_string(), act, replace).await?;
        Ok(match adopted {
            Adopted::Now => "adopted",
            Adopted::Before => "it was adopted before",
        })
    })
    .await
}

/// What `platen up` does with a new database: nothing of it can be elsewhere.
pub(crate) async fn adopt_new(
    reader: &PgPool,
    pool: &PgPool,
    address: &Address,
) -> anyhow::Result<()> {
    address.make_folder()?;
    if !ownership::is_new(reader).await? {
        return Ok(());
    }
    let act = Actor {
        by: "platen up",
        reason: "the database is new",
    };
    let bucket = Bucket::open(address, SecretString::default())?;
    match ownership::adopt(pool, &bucket, &address.to_string(), act, false).await {
        // The bucket of a database that is gone: its files are nobody's, and people decide.
        Err(error @ AdoptError::AnothersMarker(_)) => tracing::warn!("{error}"),
        adopted => drop(adopted?),
    }
    Ok(())
}

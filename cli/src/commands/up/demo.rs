//! The demo tenant: 1,000 credits and a key, created at the first start and used again at every later start.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use common::people::authentication;
use common::people::operator::tenants;
use domain::api_key::{ApiKey, KeyTerms};
use domain::credits::Credits;
use domain::id::TenantId;
use domain::operator::Actor;
use domain::permission::Permissions;
use servers::secrets;
use sqlx::PgPool;
use storage::database::{self, DatabaseRole};

/// Credits that the demo tenant gets.
const CREDITS: i64 = 1_000;

/// The demo tenant, for the output of `platen up`.
pub(super) struct Demo {
    /// The tenant's API key.
    pub key: String,
    /// The balance, such as `994 credits available`.
    pub balance: String,
}

impl Demo {
    /// Finds the tenant of the key in `demo.key`, or creates the tenant, its credits and its key. Writes `demo.env` for the curl
    /// commands of the README, with the address of the API.
    pub(super) async fn prepare(
        database_url: &str,
        data: &Path,
        api: SocketAddr,
    ) -> anyhow::Result<Self> {
        let pool = database::connect(database_url, DatabaseRole::Api, 2)
            .await
            .context("cannot reach Postgres")?;
        let file = data.join("demo.key");
        let stored = std::fs::read_to_string(&file)
            .ok()
            .and_then(|text| ApiKey::parse(text.trim()));
        let known = match stored {
            Some(key) => authentication::authenticate(&pool, &key)
                .await?
                .map(|(rights, _)| (key, rights.tenant)),
            None => None,
        };
        // If the database does not know the key, the file belongs to an earlier database.
        let (key, tenant) = match known {
            Some(known) => known,
            None => create(&pool, &file).await?,
        };
        let mut transaction = database::begin_for(&pool, tenant).await?;
        let wallet = storage::ledger::wallet(&mut transaction, tenant)
            .await?
            .context("the demo tenant has no wallet")?;
        transaction.commit().await?;
        pool.close().await;
        let key = key.expose().to_owned();
        secrets::write(
            &data.join("demo.env"),
            &format!("export PLATEN_URL=http://{api}\nexport PLATEN_KEY={key}\n"),
        )?;
        Ok(Self {
            key,
            balance: format!("{} available", wallet.available),
        })
    }
}

/// Creates the demo tenant, its credits and its key, and writes the key to `file`.
async fn create(pool: &PgPool, file: &Path) -> anyhow::Result<(ApiKey, TenantId)> {
    let actor = Actor {
        by: "platen up",
        reason: "the demo of this data folder is set up",
    };
    let tenant = tenants::add(pool, actor, "Demo").await?;
    tenants::grant(pool, actor, tenant, "demo", Credits::new(CREDITS)?).await?;
    // The demo is there to try everything, also keys.
    let terms = KeyTerms::with_scopes("demo", Permissions::grantable_to_keys());
    let key = tenants::add_key(pool, actor, tenant, &terms).await?;
    secrets::write(file, &format!("{}\n", key.expose()))?;
    Ok((key, tenant))
}

//! The demo tenant: 1,000 credits and a key, made once and found again at every start.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use common::authentication;
use common::credits::Credits;
use common::database::{self, DatabaseRole};
use common::ledger;
use common::operator::{Actor, tenants};
use common::tenant::ApiKey;
use sqlx::PgPool;

use crate::secrets;

const CREDITS: i64 = 1_000;

/// What a newcomer needs.
pub(super) struct Demo {
    pub key: String,
    /// The balance, in words.
    pub balance: String,
}

impl Demo {
    /// Finds the key in `demo.key`, or makes tenant, credits and key; writes `demo.env` for the README's curl lines.
    pub(super) async fn prepare(
        database_url: &str,
        data: &Path,
        api: SocketAddr,
    ) -> anyhow::Result<Self> {
        let pool = database::connect(database_url, DatabaseRole::Api, 2)
            .await
            .context("cannot reach Postgres")?;
        let file = data.join("demo.key");
        let kept = std::fs::read_to_string(&file)
            .ok()
            .and_then(|text| ApiKey::parse(text.trim()));
        let known = match kept {
            Some(key) => authentication::authenticate(&pool, &key)
                .await?
                .map(|tenant| (key, tenant)),
            None => None,
        };
        // A key the database does not know belongs to data that are gone.
        let (key, tenant) = match known {
            Some(known) => known,
            None => make(&pool, &file).await?,
        };
        let mut transaction = database::begin_for(&pool, tenant).await?;
        let wallet = ledger::store::wallet(&mut transaction, tenant)
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

async fn make(pool: &PgPool, file: &Path) -> anyhow::Result<(ApiKey, common::id::TenantId)> {
    let act = Actor {
        by: "platen up",
        reason: "the demo of this data folder is set up",
    };
    let tenant = tenants::add(pool, act, "Demo").await?;
    tenants::grant(pool, act, tenant, "demo", Credits::new(CREDITS)?).await?;
    let key = tenants::add_key(pool, act, tenant, "demo").await?;
    secrets::write(file, &format!("{}\n", key.expose()))?;
    Ok((key, tenant))
}

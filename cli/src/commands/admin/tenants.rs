//! `platen admin freeze`, `unfreeze` and `adjust`.

use std::path::Path;

use anyhow::ensure;
use common::config::Config;
use common::people::operator;
use common::people::operator::once::{OperatorReply, OperatorRequest};
use domain::credits::Credits;
use domain::id::TenantId;
use domain::operator::Actor;
use sqlx::PgPool;
use storage::database::DatabaseRole;

use super::request::{new_request, repeatable_request};
use crate::database::with_connection;
use crate::say;

/// Freezes a tenant (`frozen`), or unfreezes it. Returns an error if nothing changed: only an active tenant can be frozen, and only
/// a frozen one unfrozen.
pub(super) async fn set_frozen(
    config: &Config,
    data: Option<&Path>,
    actor: Actor<'_>,
    tenant: TenantId,
    frozen: bool,
) -> anyhow::Result<()> {
    let operator_request = OperatorRequest {
        actor,
        request: &new_request("freeze"),
    };
    let set_frozen = async |pool: &PgPool| {
        Ok(operator::set_frozen(pool, operator_request, tenant, frozen).await?)
    };
    let (_, has_changed) = with_connection(config, data, DatabaseRole::Api, set_frozen).await?;
    let state_before = if frozen { "not active" } else { "not frozen" };
    ensure!(
        has_changed,
        "nothing was done: tenant {tenant} is {state_before}"
    );
    say!("{}", if frozen { "frozen" } else { "not frozen" })?;
    Ok(())
}

/// An adjustment of a tenant's credits.
pub(super) struct Adjustment {
    pub(super) tenant: TenantId,
    /// Credits to give; a negative number takes credits.
    pub(super) credits: i64,
    /// A second adjustment with the same key does nothing. `None` for an adjustment that is never a repetition.
    pub(super) idempotency_key: Option<String>,
}

/// Adjusts the credits of a tenant, once for each idempotency key.
pub(super) async fn adjust(
    config: &Config,
    data: Option<&Path>,
    actor: Actor<'_>,
    adjustment: Adjustment,
) -> anyhow::Result<()> {
    let Adjustment {
        tenant,
        credits,
        idempotency_key,
    } = adjustment;
    let command = format!("adjust {tenant} {credits}");
    let operator_request = OperatorRequest {
        actor,
        request: &repeatable_request(idempotency_key, &command)?,
    };
    let amount = Credits::new(i64::try_from(credits.unsigned_abs())?)?;
    ensure!(!amount.is_zero(), "say how many credits: not 0");
    let gives = credits > 0;
    let adjust = async |pool: &PgPool| {
        Ok(operator::adjust(pool, operator_request, tenant, amount, gives).await?)
    };
    match with_connection(config, data, DatabaseRole::Api, adjust).await? {
        OperatorReply::New(_) => say!("adjusted by {credits}")?,
        OperatorReply::Repeated(_) => {
            say!("adjusted by {credits} before, under this key: nothing was done now")?;
        }
    }
    Ok(())
}

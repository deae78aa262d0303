//! `platen admin pause`, `resume` and `pauses`.

use std::path::Path;

use anyhow::{bail, ensure};
use common::config::Config;
use common::people::operator;
use common::people::operator::once::OperatorRequest;
use domain::idempotency::Answer;
use domain::operator::{Actor, Scope};
use sqlx::PgPool;
use storage::database::DatabaseRole;
use time::format_description::well_known::Rfc3339;

use super::request::new_request;
use crate::arguments::ReasonArgs;
use crate::database::with_connection;
use crate::say;

/// Pauses the jobs of a scope. An empty scope stands for all jobs, and `everything` must then be set to confirm it. With any other
/// scope, `everything` must not be set.
pub(super) async fn pause(
    config: &Config,
    data: Option<&Path>,
    scope: &Scope,
    everything: bool,
    reason: &ReasonArgs,
    by: &str,
) -> anyhow::Result<()> {
    if (*scope == Scope::default()) != everything {
        bail!(
            "to pause some jobs, name --model, --tenant or --worker; to pause all jobs, give only --everything"
        );
    }
    let operator_request = OperatorRequest {
        actor: reason.actor_for(by)?,
        request: &new_request("pause"),
    };
    let pause = async |pool: &PgPool| {
        let mut pause_id = None;
        let answer = |id: i64| {
            pause_id = Some(id);
            Answer::json(201, &id)
        };
        operator::pause(pool, operator_request, scope, answer).await?;
        Ok(pause_id)
    };
    let pause_id = with_connection(config, data, DatabaseRole::Api, pause).await?;
    // A new request is never a repetition, so `answer` was called and there is an id.
    let pause_id = pause_id.map(|id| id.to_string()).unwrap_or_default();
    say!("paused; `platen admin resume {pause_id}` ends it")?;
    Ok(())
}

/// Ends a pause. Returns an error if the pause has ended already or never existed.
pub(super) async fn resume(
    config: &Config,
    data: Option<&Path>,
    pause_id: i64,
    actor: Actor<'_>,
) -> anyhow::Result<()> {
    let operator_request = OperatorRequest {
        actor,
        request: &new_request("resume"),
    };
    let resume =
        async |pool: &PgPool| Ok(operator::resume(pool, operator_request, pause_id).await?);
    let resumed = with_connection(config, data, DatabaseRole::Api, resume).await?;
    ensure!(resumed.is_some(), "there is no active pause {pause_id}");
    say!("resumed")?;
    Ok(())
}

/// Lists the pauses that have not ended.
pub(super) async fn list(config: &Config, data: Option<&Path>) -> anyhow::Result<()> {
    let pauses = async |pool: &PgPool| Ok(storage::operators::pauses(pool).await?);
    for pause in with_connection(config, data, DatabaseRole::Reader, pauses).await? {
        let tenant = pause.tenant.map(|tenant| tenant.to_string());
        let scope = [
            ("model", pause.model),
            ("tenant", tenant),
            ("worker", pause.worker),
        ];
        let scope: Vec<String> = scope
            .into_iter()
            .filter_map(|(kind, name)| Some(format!("{kind} {}", name?)))
            .collect();
        let scope = if scope.is_empty() {
            "everything".to_owned()
        } else {
            scope.join(", ")
        };
        say!(
            "{}  {}  {scope}: {}",
            pause.id,
            pause.paused_at.format(&Rfc3339)?,
            pause.reason
        )?;
    }
    Ok(())
}

//! `PUT /v1/retention`: sets how long files and prompts are kept. Applies to existing and to future files.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::generation::Violation;
use domain::retention::{MAX_SECONDS, Retention};
use storage::database;

use crate::app::App;
use crate::auth::Principal;
use crate::error::{Problem, Result};
use crate::extract::{self, JsonBody};

/// Set how long files and prompts are kept
///
/// A class that is left out, or `null`, is kept as long as the account exists. Files that are already due stay due, and deleted
/// files stay deleted.
#[utoipa::path(
    put,
    path = "/v1/retention",
    operation_id = "set_retention",
    tag = "files",
    security(("key" = [])),
    request_body = Retention,
    responses(
        (status = 200, description = "The times that apply from now on", body = Retention),
        (status = 422, description = "A time is out of bounds: `errors` names it"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    JsonBody(body): JsonBody,
) -> Result<Json<Retention>> {
    let wanted: Retention = extract::json(&body)?;
    let out_of_bounds = wanted.classes().into_iter().filter(|(_, seconds, least)| {
        seconds.is_some_and(|seconds| !(*least..=MAX_SECONDS).contains(&seconds))
    });
    let violations: Vec<Violation> = out_of_bounds
        .map(|(class, _, least)| {
            Violation::new(
                format!("/{class}"),
                format!(
                    "{least} to {MAX_SECONDS} seconds (ten years); null for the account's lifetime."
                ),
            )
        })
        .collect();
    if !violations.is_empty() {
        return Err(Problem::invalid(violations));
    }
    let connection = app.connection(tenant).await?;
    // With the wallet's lock no job can end meanwhile, so the deletion of every job's files is planned.
    let mut transaction = database::begin_with_wallet(&connection, tenant).await?;
    storage::retention::set(&mut transaction, tenant, wanted).await?;
    transaction.commit().await?;
    tracing::info!(
        ?wanted,
        "The tenant set how long files and prompts are kept"
    );
    Ok(Json(wanted))
}

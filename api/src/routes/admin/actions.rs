//! `GET /v1/admin/actions`: what operators did.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::operator::{self, AuditEntry};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Operator;
use crate::error::Result;
use crate::extract::{Parameters, after, limit, line_number, page};

/// Which.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListActionsQuery {
    /// At most so many.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// The `id` of the last one you have: older ones follow.
    #[param(schema_with = line_number)]
    starting_after: Option<i64>,
}

/// A page of what was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct Actions {
    pub data: Vec<AuditEntry>,
    pub has_more: bool,
}

/// What operators did, newest first
#[utoipa::path(
    get,
    path = "/v1/admin/actions",
    operation_id = "list_actions",
    tag = "operators",
    security(("operator" = [])),
    params(ListActionsQuery),
    responses((status = 200, description = "A page of it", body = Actions))
)]
pub async fn list(
    State(app): State<Arc<App>>,
    _: Operator,
    Parameters(which): Parameters<ListActionsQuery>,
) -> Result<Json<Actions>> {
    let limit = limit(which.limit)?;
    let done =
        operator::store::actions(&app.reader, after(which.starting_after)?, limit + 1).await?;
    let (data, has_more) = page(done, limit);
    Ok(Json(Actions { data, has_more }))
}

//! `GET /v1/admin/actions`: the audit log of operators' actions.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::operator::AuditEntry;
use serde::Deserialize;

use crate::app::App;
use crate::auth::Operator;
use crate::error::Result;
use crate::extract::Parameters;
use crate::paging::{Limit, LineNumber, Page};

/// Which actions to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListActionsQuery {
    /// The most actions to return.
    #[serde(default)]
    #[param(schema_with = Limit::schema)]
    limit: Limit,
    /// The `id` of the last action you have. Older actions follow.
    #[param(schema_with = LineNumber::schema)]
    starting_after: Option<LineNumber>,
}

/// List what operators did, newest first
#[utoipa::path(
    get,
    path = "/v1/admin/actions",
    operation_id = "list_actions",
    tag = "operators",
    security(("operator" = [])),
    params(ListActionsQuery),
    responses((status = 200, description = "A page of actions", body = Page<AuditEntry>))
)]
pub async fn list(
    State(app): State<Arc<App>>,
    _: Operator,
    Parameters(query): Parameters<ListActionsQuery>,
) -> Result<Json<Page<AuditEntry>>> {
    let limit = query.limit.get();
    let after = query.starting_after.map(LineNumber::get);
    let actions = storage::operators::actions(&app.reader, after, limit + 1).await?;
    Ok(Json(Page::new(actions, limit)))
}

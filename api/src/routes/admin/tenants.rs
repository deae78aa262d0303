//! `POST /v1/admin/tenants/{id}/…`: freezing a tenant, and setting its credits right.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use common::credits::{Credits, InvalidCredits};
use common::generation::Violation;
use common::id::TenantId;
use common::operation;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::{Reason, act};
use crate::app::App;
use crate::auth::Operator;
use crate::error::{Problem, ProblemBody, Result, sentence};
use crate::extract::{self, Id, JsonBody};

/// Let a tenant submit no more jobs
///
/// What is open goes on; jobs and files can still be read.
#[utoipa::path(
    post,
    path = "/v1/admin/tenants/{id}/freeze",
    operation_id = "freeze_tenant",
    tag = "operators",
    security(("operator" = [])),
    params(("id" = String, Path, description = "`ten_…`")),
    request_body = Reason,
    responses(
        (status = 204, description = "It is frozen"),
        (status = 404, description = "There is no such tenant", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn freeze(
    State(app): State<Arc<App>>,
    _: Operator,
    Id(tenant): Id<TenantId>,
    JsonBody(body): JsonBody,
) -> Result<StatusCode> {
    set(&app, tenant, &body, true).await
}

/// Let a frozen tenant submit jobs again
#[utoipa::path(
    post,
    path = "/v1/admin/tenants/{id}/unfreeze",
    operation_id = "unfreeze_tenant",
    tag = "operators",
    security(("operator" = [])),
    params(("id" = String, Path, description = "`ten_…`")),
    request_body = Reason,
    responses(
        (status = 204, description = "It is not frozen"),
        (status = 404, description = "There is no such tenant", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn unfreeze(
    State(app): State<Arc<App>>,
    _: Operator,
    Id(tenant): Id<TenantId>,
    JsonBody(body): JsonBody,
) -> Result<StatusCode> {
    set(&app, tenant, &body, false).await
}

async fn set(app: &App, tenant: TenantId, body: &[u8], frozen: bool) -> Result<StatusCode> {
    let reason: Reason = extract::json(body)?;
    operation::freeze(&app.pool, reason.act()?, tenant, frozen).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Credits that nobody bought and no job explains.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Adjustment {
    /// Given, or where negative taken from what is not spent.
    #[serde(default)]
    #[schema(required, schema_with = credits)]
    credits: i64,
    #[serde(default)]
    #[schema(required, schema_with = super::reason)]
    reason: String,
}

/// Give a tenant credits, or take some
///
/// It is a line of its statement, `adjust`. Not repeated by itself: look at `GET /v1/admin/actions` when an answer was lost.
#[utoipa::path(
    post,
    path = "/v1/admin/tenants/{id}/adjust",
    operation_id = "adjust_credits",
    tag = "operators",
    security(("operator" = [])),
    params(("id" = String, Path, description = "`ten_…`")),
    request_body = Adjustment,
    responses(
        (status = 204, description = "The wallet is as it should be"),
        (status = 404, description = "There is no such tenant", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "More is to be taken than there is", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn adjust(
    State(app): State<Arc<App>>,
    _: Operator,
    Id(tenant): Id<TenantId>,
    JsonBody(body): JsonBody,
) -> Result<StatusCode> {
    let Adjustment { credits, reason } = extract::json(&body)?;
    let act = act(&reason)?;
    let amount = credits.checked_abs().ok_or(InvalidCredits);
    let amount = amount
        .and_then(Credits::new)
        .map_err(|error| wrong(sentence(&error)))?;
    if amount.is_zero() {
        return Err(wrong("Say how many: not 0.".to_owned()));
    }
    operation::adjust(&app.pool, act, tenant, amount, credits > 0).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn wrong(detail: String) -> Problem {
    Problem::invalid(vec![Violation::new("/credits", detail)])
}

fn credits() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .description(Some(
            "Given, or where negative taken from what is not spent.",
        ))
        .minimum(Some(-i64::MAX))
        .maximum(Some(i64::MAX))
        .examples([-24])
        .into()
}

//! `POST /v1/admin/tenants/{id}/…`: freezes a tenant, and adjusts its credits.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use common::people::operator;
use common::people::operator::once::OperatorRequest;
use domain::credits::{Credits, InvalidCredits};
use domain::generation::Violation;
use domain::id::TenantId;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::{Reason, actor, operator_response};
use crate::app::App;
use crate::auth::Operator;
use crate::error::{Problem, Result, sentence};
use crate::extract::{self, Id, JsonBody};
use crate::idempotency::IdempotencyKey;

/// Freeze a tenant: it may not submit jobs any more
///
/// Open jobs go on, and jobs and files can still be read.
#[utoipa::path(
    post,
    path = "/v1/admin/tenants/{id}/freeze",
    operation_id = "freeze_tenant",
    tag = "operators",
    security(("operator" = [])),
    params(
        ("id" = String, Path, description = "The id of the tenant, `ten_…`"),
        ("Idempotency-Key" = Option<String>, Header),
    ),
    request_body = Reason,
    responses(
        (status = 204, description = "The tenant is frozen"),
        (status = 404, description = "There is no such tenant"),
        (status = 422, description = "The request is not valid, or the idempotency key belongs to another request"),
    )
)]
pub async fn freeze(
    State(app): State<Arc<App>>,
    _: Operator,
    Id(tenant): Id<TenantId>,
    key: IdempotencyKey,
    uri: Uri,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    set_frozen(&app, tenant, (&key, &uri), &body, true).await
}

/// Unfreeze a tenant: it may submit jobs again
#[utoipa::path(
    post,
    path = "/v1/admin/tenants/{id}/unfreeze",
    operation_id = "unfreeze_tenant",
    tag = "operators",
    security(("operator" = [])),
    params(
        ("id" = String, Path, description = "The id of the tenant, `ten_…`"),
        ("Idempotency-Key" = Option<String>, Header),
    ),
    request_body = Reason,
    responses(
        (status = 204, description = "The tenant is not frozen"),
        (status = 404, description = "There is no such tenant"),
        (status = 422, description = "The request is not valid, or the idempotency key belongs to another request"),
    )
)]
pub async fn unfreeze(
    State(app): State<Arc<App>>,
    _: Operator,
    Id(tenant): Id<TenantId>,
    key: IdempotencyKey,
    uri: Uri,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    set_frozen(&app, tenant, (&key, &uri), &body, false).await
}

/// Freezes a tenant (`frozen`), or unfreezes it. The path in `uri` is a part of what an idempotency key stands for.
async fn set_frozen(
    app: &App,
    tenant: TenantId,
    (key, uri): (&IdempotencyKey, &Uri),
    body: &[u8],
    frozen: bool,
) -> Result<Response> {
    let reason: Reason = extract::json(body)?;
    let request = key.request("POST", uri.path(), body);
    let operator_request = reason.operator_request(&request)?;
    let (answer, _has_changed) =
        operator::set_frozen(&app.pool, operator_request, tenant, frozen).await?;
    Ok(operator_response(key, answer))
}

/// An adjustment of a tenant's credits: neither a purchase nor the cost of a job.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Adjustment {
    /// Credits to give, or, if negative, to take from the available credits.
    #[serde(default)]
    #[schema(required, schema_with = credits_schema)]
    credits: i64,
    /// Why you do this.
    #[serde(default)]
    #[schema(required, schema_with = super::reason_schema)]
    reason: String,
}

/// Give credits to a tenant, or take credits from it
///
/// This adds a line `adjust` to the tenant's statement. At most 10^12 credits are moved at once, and a wallet holds at most 10^15.
#[utoipa::path(
    post,
    path = "/v1/admin/tenants/{id}/adjust",
    operation_id = "adjust_credits",
    tag = "operators",
    security(("operator" = [])),
    params(
        ("id" = String, Path, description = "The id of the tenant, `ten_…`"),
        ("Idempotency-Key" = Option<String>, Header),
    ),
    request_body = Adjustment,
    responses(
        (status = 204, description = "The credits were given or taken"),
        (status = 404, description = "There is no such tenant"),
        (status = 422, description = "More would be taken than is available, more would be given than a wallet can hold, or the idempotency key belongs to another request"),
    )
)]
pub async fn adjust(
    State(app): State<Arc<App>>,
    _: Operator,
    Id(tenant): Id<TenantId>,
    key: IdempotencyKey,
    uri: Uri,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let Adjustment { credits, reason } = extract::json(&body)?;
    let operator_request = OperatorRequest {
        actor: actor(&reason)?,
        request: &key.request("POST", uri.path(), &body),
    };
    let amount = credits.checked_abs().ok_or(InvalidCredits);
    let amount = amount
        .and_then(Credits::new)
        .map_err(|error| invalid_credits(sentence(&error)))?;
    if amount.is_zero() {
        return Err(invalid_credits(
            "Send a number other than 0: nothing would change.".to_owned(),
        ));
    }
    let gives = credits > 0;
    let answer = operator::adjust(&app.pool, operator_request, tenant, amount, gives).await?;
    Ok(operator_response(&key, answer))
}

fn invalid_credits(detail: String) -> Problem {
    Problem::invalid(vec![Violation::new("/credits", detail)])
}

fn credits_schema() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .description(Some(
            "Credits to give, or, if negative, to take from the available credits.",
        ))
        .minimum(Some(-Credits::MAX_TRANSFER.get()))
        .maximum(Some(Credits::MAX_TRANSFER.get()))
        .examples([-24])
        .into()
}

//! `POST /v1/admin/tenants/{id}/…`: freezing a tenant, and setting its credits right.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use common::credits::{Credits, InvalidCredits};
use common::generation::Violation;
use common::id::TenantId;
use common::operator;
use common::operator::once::OperatorRequest;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::{Reason, act, replied};
use crate::app::App;
use crate::auth::Operator;
use crate::error::{Problem, ProblemBody, Result, sentence};
use crate::extract::{self, Id, JsonBody};
use crate::idempotency::Key;

/// Let a tenant submit no more jobs
///
/// What is open goes on; jobs and files can still be read.
#[utoipa::path(
    post,
    path = "/v1/admin/tenants/{id}/freeze",
    operation_id = "freeze_tenant",
    tag = "operators",
    security(("operator" = [])),
    params(
        ("id" = String, Path, description = "`ten_…`"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters; made when missing. The same request with the same key is answered again, not done again"),
    ),
    request_body = Reason,
    responses(
        (status = 204, description = "It is frozen"),
        (status = 404, description = "There is no such tenant", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The request cannot be carried out as it is, or the idempotency key belongs to another", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn freeze(
    State(app): State<Arc<App>>,
    _: Operator,
    Id(tenant): Id<TenantId>,
    key: Key,
    uri: Uri,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    set(&app, tenant, (&key, &uri), &body, true).await
}

/// Let a frozen tenant submit jobs again
#[utoipa::path(
    post,
    path = "/v1/admin/tenants/{id}/unfreeze",
    operation_id = "unfreeze_tenant",
    tag = "operators",
    security(("operator" = [])),
    params(
        ("id" = String, Path, description = "`ten_…`"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters; made when missing. The same request with the same key is answered again, not done again"),
    ),
    request_body = Reason,
    responses(
        (status = 204, description = "It is not frozen"),
        (status = 404, description = "There is no such tenant", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The request cannot be carried out as it is, or the idempotency key belongs to another", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn unfreeze(
    State(app): State<Arc<App>>,
    _: Operator,
    Id(tenant): Id<TenantId>,
    key: Key,
    uri: Uri,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    set(&app, tenant, (&key, &uri), &body, false).await
}

async fn set(
    app: &App,
    tenant: TenantId,
    (key, uri): (&Key, &Uri),
    body: &[u8],
    frozen: bool,
) -> Result<Response> {
    let reason: Reason = extract::json(body)?;
    let request = key.request("POST", uri.path(), body);
    let order = reason.order(&request)?;
    let (answer, _) = operator::freeze(&app.pool, order, tenant, frozen).await?;
    Ok(replied(key, answer))
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
/// It is a line of its statement, `adjust`. At most 10^12 credits are moved at once, and a wallet holds at most 10^15.
#[utoipa::path(
    post,
    path = "/v1/admin/tenants/{id}/adjust",
    operation_id = "adjust_credits",
    tag = "operators",
    security(("operator" = [])),
    params(
        ("id" = String, Path, description = "`ten_…`"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters; made when missing. The same request with the same key is answered again, not done again"),
    ),
    request_body = Adjustment,
    responses(
        (status = 204, description = "The wallet is as it should be"),
        (status = 404, description = "There is no such tenant", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "More is to be taken than there is, more is given than a wallet holds, or the idempotency key belongs to another request", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn adjust(
    State(app): State<Arc<App>>,
    _: Operator,
    Id(tenant): Id<TenantId>,
    key: Key,
    uri: Uri,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let Adjustment { credits, reason } = extract::json(&body)?;
    let order = OperatorRequest {
        act: act(&reason)?,
        request: &key.request("POST", uri.path(), &body),
    };
    let amount = credits.checked_abs().ok_or(InvalidCredits);
    let amount = amount
        .and_then(Credits::new)
        .map_err(|error| wrong(sentence(&error)))?;
    if amount.is_zero() {
        return Err(wrong("Say how many: not 0.".to_owned()));
    }
    let answer = operator::adjust(&app.pool, order, tenant, amount, credits > 0).await?;
    Ok(replied(&key, answer))
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
        .minimum(Some(-Credits::MAX_TRANSFER.get()))
        .maximum(Some(Credits::MAX_TRANSFER.get()))
        .examples([-24])
        .into()
}

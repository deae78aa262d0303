//! `/v1/admin/pauses`: jobs that are accepted and not started.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use common::generation::Violation;
use common::id::TenantId;
use common::idempotency::Answer;
use common::operator::once::OperatorRequest;
use common::operator::{self, Pause, Scope};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Reason, act, replied};
use crate::app::App;
use crate::auth::Operator;
use crate::error::{Code, Problem, ProblemBody, Result};
use crate::extract::{self, JsonBody};
use crate::idempotency::Key;

/// The longest name of a worker, in characters.
const MAX_WORKER: usize = 200;

/// What is to be paused: all jobs that fit everything that is said.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToPause {
    #[schema(pattern = "^[^\\u0000]*$")]
    model: Option<String>,
    #[schema(schema_with = TenantId::schema)]
    tenant: Option<TenantId>,
    /// A worker's name: it is drained. What it has under way ends, and it starts nothing.
    #[schema(min_length = 1, max_length = 200, pattern = "^[^\\u0000]*$")]
    worker: Option<String>,
    /// To pause every job, say so.
    #[serde(default)]
    everything: bool,
    #[serde(default)]
    #[schema(required, schema_with = super::reason)]
    reason: String,
}

/// Pauses that stand.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pauses {
    pub data: Vec<Pause>,
}

/// A pause that begins.
#[derive(Debug, Serialize, ToSchema)]
pub struct Paused {
    /// For whoever resumes.
    pub id: i64,
}

/// Pauses that stand, oldest first
#[utoipa::path(
    get,
    path = "/v1/admin/pauses",
    operation_id = "list_pauses",
    tag = "operators",
    security(("operator" = [])),
    responses((status = 200, description = "All of them", body = Pauses))
)]
pub async fn list(State(app): State<Arc<App>>, _: Operator) -> Result<Json<Pauses>> {
    let data = operator::store::pauses(&app.reader).await?;
    Ok(Json(Pauses { data }))
}

/// Pause a model, a tenant, a worker, or everything
///
/// Jobs are accepted as before and wait; their deadlines run on. What is under way ends.
#[utoipa::path(
    post,
    path = "/v1/admin/pauses",
    operation_id = "pause",
    tag = "operators",
    security(("operator" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters; made when missing. The same request with the same key is answered again, not done again")),
    request_body = ToPause,
    responses(
        (status = 201, description = "It is paused", body = Paused),
        (status = 404, description = "There is no such tenant", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Nothing is named, or no reason", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn pause(
    State(app): State<Arc<App>>,
    _: Operator,
    key: Key,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let asked: ToPause = extract::json(&body)?;
    let act = act(&asked.reason)?;
    let scope = Scope {
        model: asked.model,
        tenant: asked.tenant,
        worker: asked.worker,
    };
    if (scope == Scope::default()) != asked.everything {
        let detail = "Name a model, a tenant or a worker, or say `everything`: not both.";
        return Err(Problem::invalid(vec![Violation::new(
            "/everything",
            detail,
        )]));
    }
    if let Some(model) = &scope.model
        && app.catalog.get(model).is_none()
    {
        let detail = format!("There is no model {model}: GET /v1/models lists them.");
        return Err(Problem::invalid(vec![Violation::new("/model", detail)]));
    }
    let usable = |worker: &String| {
        (1..=MAX_WORKER).contains(&worker.chars().count()) && !worker.contains('\0')
    };
    if !scope.worker.as_ref().is_none_or(usable) {
        let detail = format!("Name a worker in 1 to {MAX_WORKER} characters, without NUL.");
        return Err(Problem::invalid(vec![Violation::new("/worker", detail)]));
    }
    let order = OperatorRequest {
        act,
        request: &key.request("POST", "/v1/admin/pauses", &body),
    };
    let paused = |id| Answer::json(201, &Paused { id });
    let answer = operator::pause(&app.pool, order, &scope, paused).await?;
    Ok(replied(&key, answer))
}

/// End a pause
#[utoipa::path(
    post,
    path = "/v1/admin/pauses/{id}/resume",
    operation_id = "resume",
    tag = "operators",
    security(("operator" = [])),
    params(
        ("id" = i64, Path, description = "Its number"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters; made when missing. The same request with the same key is answered again, not done again"),
    ),
    request_body = Reason,
    responses(
        (status = 204, description = "Jobs are started again"),
        (status = 404, description = "There is none that stands", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The request cannot be carried out as it is, or the idempotency key belongs to another", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn resume(
    State(app): State<Arc<App>>,
    _: Operator,
    Path(id): Path<String>,
    key: Key,
    uri: Uri,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let reason: Reason = extract::json(&body)?;
    let request = key.request("POST", uri.path(), &body);
    let order = reason.order(&request)?;
    let none = || {
        Problem::new(
            Code::NotFound,
            format!("No pause {id} stands: GET /v1/admin/pauses lists them."),
        )
    };
    let number: i64 = id.parse().map_err(|_| none())?;
    let answer = operator::resume(&app.pool, order, number).await?;
    Ok(replied(&key, answer.ok_or_else(none)?))
}

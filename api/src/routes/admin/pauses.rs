//! `/v1/admin/pauses`: lists, starts and ends pauses. Paused jobs are accepted but not started.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use common::people::operator;
use common::people::operator::once::OperatorRequest;
use domain::generation::Violation;
use domain::id::TenantId;
use domain::idempotency::Answer;
use domain::operator::{Pause, Scope};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Reason, actor, operator_response};
use crate::app::App;
use crate::auth::Operator;
use crate::error::{Code, Problem, Result};
use crate::extract::{self, JsonBody};
use crate::idempotency::IdempotencyKey;
use crate::paging::List;

/// The longest name of a worker, in characters.
const MAX_WORKER_LENGTH: usize = 200;

/// What to pause: all jobs that match all of the given fields.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseBody {
    /// Pause the jobs of this model.
    #[schema(pattern = "^[^\\u0000]*$")]
    model: Option<String>,
    /// Pause the jobs of this tenant.
    #[schema(schema_with = super::tenant_schema)]
    tenant: Option<TenantId>,
    /// Drain the worker with this name: it finishes the jobs it has and starts no more.
    #[schema(min_length = 1, max_length = 200, pattern = "^[^\\u0000]*$")]
    worker: Option<String>,
    /// `true` to pause all jobs. It must be `false` or missing if another field names what to pause.
    #[serde(default)]
    everything: bool,
    /// Why you do this.
    #[serde(default)]
    #[schema(required, schema_with = super::reason_schema)]
    reason: String,
}

/// A new pause.
#[derive(Debug, Serialize, ToSchema)]
pub struct Paused {
    /// The number of the pause. It is needed to end the pause.
    pub id: i64,
}

/// List the active pauses, oldest first
#[utoipa::path(
    get,
    path = "/v1/admin/pauses",
    operation_id = "list_pauses",
    tag = "operators",
    security(("operator" = [])),
    responses((status = 200, description = "All active pauses", body = List<Pause>))
)]
pub async fn list(State(app): State<Arc<App>>, _: Operator) -> Result<Json<List<Pause>>> {
    let data = storage::operators::pauses(&app.reader).await?;
    Ok(Json(List { data }))
}

/// Pause a model, a tenant, a worker, or everything
///
/// Jobs are still accepted, but they wait, and their deadlines stay the same. Jobs under way are finished.
#[utoipa::path(
    post,
    path = "/v1/admin/pauses",
    operation_id = "pause",
    tag = "operators",
    security(("operator" = [])),
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = PauseBody,
    responses(
        (status = 201, description = "The pause is active", body = Paused),
        (status = 404, description = "There is no such tenant"),
        (status = 422, description = "The body names nothing to pause, an unknown model, or no reason; or the idempotency key belongs to another request"),
    )
)]
pub async fn pause(
    State(app): State<Arc<App>>,
    _: Operator,
    key: IdempotencyKey,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let body_fields: PauseBody = extract::json(&body)?;
    let actor = actor(&body_fields.reason)?;
    let scope = Scope {
        model: body_fields.model,
        tenant: body_fields.tenant,
        worker: body_fields.worker,
    };
    // An empty scope pauses everything. A forgotten field must not do that.
    if (scope == Scope::default()) != body_fields.everything {
        let detail = "To pause some jobs, name a model, a tenant or a worker. To pause all jobs, send `\"everything\": true` and name none of them.";
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
    let is_valid_name = |worker: &String| {
        (1..=MAX_WORKER_LENGTH).contains(&worker.chars().count()) && !worker.contains('\0')
    };
    if !scope.worker.as_ref().is_none_or(is_valid_name) {
        let detail = format!(
            "The name of a worker has 1 to {MAX_WORKER_LENGTH} characters and no NUL character (U+0000)."
        );
        return Err(Problem::invalid(vec![Violation::new("/worker", detail)]));
    }
    let operator_request = OperatorRequest {
        actor,
        request: &key.request("POST", "/v1/admin/pauses", &body),
    };
    let make_answer = |id| Answer::json(201, &Paused { id });
    let answer = operator::pause(&app.pool, operator_request, &scope, make_answer).await?;
    Ok(operator_response(&key, answer))
}

/// End a pause
#[utoipa::path(
    post,
    path = "/v1/admin/pauses/{id}/resume",
    operation_id = "resume",
    tag = "operators",
    security(("operator" = [])),
    params(
        ("id" = i64, Path, description = "The number of the pause"),
        ("Idempotency-Key" = Option<String>, Header),
    ),
    request_body = Reason,
    responses(
        (status = 204, description = "The pause has ended, and its jobs are started again"),
        (status = 404, description = "There is no active pause with this number"),
        (status = 422, description = "The request is not valid, or the idempotency key belongs to another request"),
    )
)]
pub async fn resume(
    State(app): State<Arc<App>>,
    _: Operator,
    // A text, so that the answer to anything that is not a number is 404, too.
    Path(id): Path<String>,
    key: IdempotencyKey,
    uri: Uri,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let reason: Reason = extract::json(&body)?;
    let request = key.request("POST", uri.path(), &body);
    let operator_request = reason.operator_request(&request)?;
    let not_found = || {
        Problem::new(
            Code::NotFound,
            format!("There is no active pause {id}: GET /v1/admin/pauses lists them."),
        )
    };
    let number: i64 = id.parse().map_err(|_| not_found())?;
    let answer = operator::resume(&app.pool, operator_request, number).await?;
    Ok(operator_response(&key, answer.ok_or_else(not_found)?))
}

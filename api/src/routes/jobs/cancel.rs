//! `POST /v1/jobs/{id}/cancel`: ends an open job and releases its credits.
//!
//! A queued or running job ends at once. A worker that has claimed the job notices that its lease is lost, and changes nothing any
//! more, except that it records how its own calls end. Calls that have begun cost us all the same, so a tenant may abandon only a
//! limited number of them in an hour (see [`domain::allowance`]).

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use common::settlement::{self, Canceler, Cancellation};
use domain::id::JobId;

use super::{JobView, location};
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Code, Problem, Result};
use crate::extract::{AnyBody, Id};
use crate::idempotency::IdempotencyKey;

/// Cancel an open job and get its credits back
///
/// Canceling a canceled job is not an error. A job whose calls have begun cannot be canceled if this tenant has used up its hourly
/// allowance of abandoned calls. In that case the job goes on, is delivered and is charged.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/cancel",
    operation_id = "cancel_job",
    tag = "jobs",
    security(("key" = [])),
    params(
        ("id" = String, Path, description = "The id of the job, `job_…`"),
        ("Idempotency-Key" = Option<String>, Header),
    ),
    responses(
        (status = 200, description = "The canceled job", body = JobView),
        (status = 404, description = "There is no job with this id"),
        (status = 409, description = "The job has ended in another way (`job_already_ended`), or no more calls may be abandoned (`cancel_allowance_used`, with `Retry-After`)"),
        (status = 413, description = "The body, which is optional here, is too large"),
        (status = 415, description = "The body, which is optional here, is compressed in an unknown way"),
        (status = 422, description = "The idempotency key belongs to another request"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    Id(id): Id<JobId>,
    key: IdempotencyKey,
    AnyBody(body): AnyBody,
) -> Result<Response> {
    let request = key.request("POST", &format!("{}/cancel", location(id)), &body);
    // A canceled job has delivered nothing, so it has no artifacts.
    let make_answer = |job: &_| JobView::new(job, Vec::new()).answer(StatusCode::OK);
    let canceler = Canceler::Owner {
        allowance: app.unbilled_limits.cancel_allowance,
    };
    let connection = app.wallet(tenant).await?;
    match settlement::cancel(&connection, canceler, (tenant, id), &request, make_answer).await? {
        Cancellation::Canceled(answer) => Ok(key.answer(answer)),
        Cancellation::Repeated(answer) => Ok(key.replay(answer)),
        Cancellation::KeyReused => Err(Code::IdempotencyKeyReused.into()),
        Cancellation::AlreadyEnded(state) => Err(Problem::new(
            Code::JobAlreadyEnded,
            format!(
                "The job has already ended: its state is {}. GET {} says how it ended.",
                state.as_str(),
                location(id)
            ),
        )
        .with("state", state.as_str())),
        Cancellation::AllowanceUsed(usage) => Err(Problem::allowance_used(
            usage,
            "This job's calls have begun: it goes on, and what it delivers is charged.",
        )),
        Cancellation::NotFound => Err(Problem::no_such("job", id)),
    }
}

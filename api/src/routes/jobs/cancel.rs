//! `POST /v1/jobs/{id}/cancel`: ends an open job and gives its credits back.
//!
//! Queued or running, the job ends at once; a worker that has it finds out and changes nothing. Calls that have begun cost us all the
//! same, so only so many of them may be abandoned in an hour: read [`common::allowance`].

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use common::id::JobId;
use common::settlement::{self, Canceler, Cancellation};

use super::{JobView, location};
use crate::app::App;
use crate::auth::Tenant;
use crate::error::{Code, Problem, ProblemBody, Result};
use crate::extract::{AnyBody, Id};
use crate::idempotency::Key;

/// End an open job and get its credits back
///
/// Canceling a canceled job is no error. A job whose calls have begun cannot be canceled while its tenant has abandoned as many calls as
/// it may in an hour: then it is delivered and charged.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/cancel",
    operation_id = "cancel_job",
    tag = "jobs",
    security(("key" = [])),
    params(
        ("id" = String, Path, description = "`job_…`"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters; made when missing"),
    ),
    responses(
        (status = 200, description = "The canceled job", body = JobView),
        (status = 404, description = "There is none with this id", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It had ended before, otherwise; or no more calls may be abandoned (`cancel_allowance_used`, with `Retry-After`)", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "A body that nobody needs is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "A body that nobody needs is encoded in a way we do not know", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The idempotency key belongs to another request", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    Id(id): Id<JobId>,
    key: Key,
    AnyBody(body): AnyBody,
) -> Result<Response> {
    let request = key.request("POST", &format!("{}/cancel", location(id)), &body);
    // A canceled job has delivered nothing.
    let canceled = |job: &_| JobView::new(job, Vec::new()).answer(StatusCode::OK);
    let owner = Canceler::Owner {
        allowance: app.unpaid.cancel_allowance,
    };
    let connection = app.wallet(tenant).await?;
    match settlement::cancel(&connection, owner, (tenant, id), &request, canceled).await? {
        Cancellation::Canceled(answer) => Ok(key.answer(answer)),
        Cancellation::Repeated(answer) => Ok(key.replay(answer)),
        Cancellation::KeyReused => Err(Code::IdempotencyKeyReused.into()),
        Cancellation::Already(state) => Err(Problem::new(
            Code::JobAlreadyEnded,
            format!(
                "The job ended before it was canceled: it has {}. GET {} tells how.",
                state.as_str(),
                location(id)
            ),
        )
        .with("state", state.as_str())),
        Cancellation::AllowanceUsed(used) => Err(Problem::allowance_used(
            used,
            "This job's calls have begun: it goes on, and what it delivers is charged.",
        )),
        Cancellation::Nothing => Err(Problem::no_such("job", id)),
    }
}

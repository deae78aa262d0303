//! `DELETE /v1/uploads/{id}`: no job may name it from now on, and its file is deleted within moments; a receipt says when.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use common::id::UploadId;
use common::uploading::{self, Removed};

use crate::app::App;
use crate::auth::Tenant;
use crate::error::{Code, Problem, ProblemBody, Result};
use crate::extract::Id;

/// Delete an upload
///
/// Jobs that have ended keep what was made of it. May be repeated.
#[utoipa::path(
    delete,
    path = "/v1/uploads/{id}",
    operation_id = "delete_upload",
    tag = "files",
    security(("key" = [])),
    params(("id" = String, Path, description = "`upl_…`")),
    responses(
        (status = 204, description = "No job may name it any more; `GET /v1/receipts` tells when its file is gone"),
        (status = 404, description = "There is none with this id", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Open jobs need it", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    Id(id): Id<UploadId>,
) -> Result<StatusCode> {
    let connection = app.connection(tenant).await?;
    match uploading::remove(&connection, tenant, id).await? {
        Removed::Gone => Ok(StatusCode::NO_CONTENT),
        Removed::Nothing => Err(Problem::no_such("upload", id)),
        Removed::InUse(jobs) => {
            let jobs = match jobs {
                1 => "An open job needs it".to_owned(),
                jobs => format!("{jobs} open jobs need it"),
            };
            let detail = format!("{jobs}: delete it when they have ended, or cancel them.");
            Err(Problem::new(Code::UploadInUse, detail))
        }
    }
}

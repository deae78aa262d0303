//! `DELETE /v1/uploads/{id}`: deletes an upload. From now on no job may name it. Its file is deleted soon after, and a receipt says
//! when.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use common::files::uploading::{self, RemoveResult};
use domain::id::UploadId;

use crate::app::App;
use crate::auth::Principal;
use crate::error::{Code, Problem, Result};
use crate::extract::Id;

/// Delete an upload
///
/// Artifacts that were made from it stay. May be repeated.
#[utoipa::path(
    delete,
    path = "/v1/uploads/{id}",
    operation_id = "delete_upload",
    tag = "files",
    security(("key" = [])),
    params(("id" = String, Path, description = "The id of the upload, `upl_…`")),
    responses(
        (status = 204, description = "The upload is deleted; `GET /v1/receipts` says when its file was deleted"),
        (status = 404, description = "There is no upload with this id"),
        (status = 409, description = "Open jobs need the upload"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    Id(id): Id<UploadId>,
) -> Result<StatusCode> {
    let connection = app.connection(tenant).await?;
    match uploading::remove(&connection, tenant, id).await? {
        RemoveResult::Gone => Ok(StatusCode::NO_CONTENT),
        RemoveResult::NotFound => Err(Problem::no_such("upload", id)),
        RemoveResult::InUse(jobs) => {
            let needed_by = match jobs {
                1 => "An open job needs it".to_owned(),
                jobs => format!("{jobs} open jobs need it"),
            };
            let detail = format!(
                "{needed_by}: cancel open jobs, or delete the upload when they have ended."
            );
            Err(Problem::new(Code::UploadInUse, detail))
        }
    }
}

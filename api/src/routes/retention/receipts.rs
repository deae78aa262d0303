//! `GET /v1/receipts`: what was deleted, newest first.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::id::{JobId, UploadId};
use common::retention::{FileClass, Receipt};
use common::{database, retention};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Tenant;
use crate::error::Result;
use crate::extract::{Parameters, after, limit, line_number, page};

/// Which receipts.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListReceiptsQuery {
    /// At most so many.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// The `id` of the last receipt you have: older ones follow.
    #[param(schema_with = line_number)]
    starting_after: Option<i64>,
    /// Of this job only.
    #[param(schema_with = JobId::schema)]
    job: Option<JobId>,
}

/// A page of receipts.
#[derive(Debug, Serialize, ToSchema)]
pub struct Receipts {
    pub data: Vec<ReceiptView>,
    /// Whether older ones follow.
    pub has_more: bool,
}

/// A file or a prompt that is gone; of a file, the bucket was asked after it was deleted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Receipt)]
pub struct ReceiptView {
    pub id: i64,
    /// The job it was sent along with, or made by; `null` for an upload.
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
    /// The upload it was.
    #[schema(value_type = Option<String>)]
    pub upload: Option<UploadId>,
    #[schema(inline)]
    pub class: FileClass,
    /// SHA-256 of the file, in hex; `null` for a prompt.
    pub sha256: Option<String>,
    pub bytes: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub due_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub deleted_at: OffsetDateTime,
}

impl From<Receipt> for ReceiptView {
    fn from(receipt: Receipt) -> Self {
        Self {
            id: receipt.id,
            job: receipt.job,
            upload: receipt.upload,
            class: receipt.class,
            sha256: receipt.sha256.map(hex::encode),
            bytes: receipt.bytes,
            due_at: receipt.due_at,
            deleted_at: receipt.deleted_at,
        }
    }
}

/// Files and prompts that were deleted, newest first
#[utoipa::path(
    get,
    path = "/v1/receipts",
    operation_id = "list_receipts",
    tag = "files",
    security(("key" = [])),
    params(ListReceiptsQuery),
    responses((status = 200, description = "A page of receipts", body = Receipts))
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    Parameters(which): Parameters<ListReceiptsQuery>,
) -> Result<Json<Receipts>> {
    let limit = limit(which.limit)?;
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let receipts = retention::store::receipts(
        &mut transaction,
        tenant,
        which.job,
        after(which.starting_after)?,
        limit + 1,
    )
    .await?;
    let (receipts, has_more) = page(receipts, limit);
    Ok(Json(Receipts {
        data: receipts.into_iter().map(ReceiptView::from).collect(),
        has_more,
    }))
}

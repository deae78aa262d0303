//! `GET /v1/receipts`: receipts for deleted files and prompts. The deletion that was planned last comes first.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::id::{JobId, UploadId};
use domain::retention::{DeletionReceipt, FileClass};
use serde::{Deserialize, Serialize};
use storage::database;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Principal;
use crate::error::Result;
use crate::extract::Parameters;
use crate::paging::{Limit, LineNumber, Page};

/// Which receipts to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListReceiptsQuery {
    /// The most receipts to return.
    #[serde(default)]
    #[param(schema_with = Limit::schema)]
    limit: Limit,
    /// The `id` of the last receipt you have. Receipts of deletions that were planned earlier follow.
    #[param(schema_with = LineNumber::schema)]
    starting_after: Option<LineNumber>,
    /// Only receipts of this job.
    #[param(schema_with = JobId::schema)]
    job: Option<JobId>,
}

/// Proof that a file or a prompt was deleted. For a file, the bucket was asked afterwards whether it is really gone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Receipt)]
pub struct ReceiptView {
    /// The number of the receipt. Numbers are given when deletions are planned.
    pub id: i64,
    /// The job that the file was sent with or made by; `null` for an upload.
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
    /// The upload that was deleted; `null` for other files.
    #[schema(value_type = Option<String>)]
    pub upload: Option<UploadId>,
    /// Which kind of file it was.
    #[schema(inline)]
    pub class: FileClass,
    /// SHA-256 of the file, in hex; `null` for a prompt.
    pub sha256: Option<String>,
    /// The size of the file, or of the text of a prompt, in bytes.
    pub bytes: i64,
    /// From when on the file or prompt was due to be deleted.
    #[serde(with = "time::serde::rfc3339")]
    pub due_at: OffsetDateTime,
    /// When the file or prompt was deleted.
    #[serde(with = "time::serde::rfc3339")]
    pub deleted_at: OffsetDateTime,
}

impl From<DeletionReceipt> for ReceiptView {
    fn from(receipt: DeletionReceipt) -> Self {
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

/// List receipts for deleted files and prompts, the last planned deletion first
#[utoipa::path(
    get,
    path = "/v1/receipts",
    operation_id = "list_receipts",
    tag = "files",
    security(("key" = [])),
    params(ListReceiptsQuery),
    responses((status = 200, description = "A page of receipts", body = Page<ReceiptView>))
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    Parameters(query): Parameters<ListReceiptsQuery>,
) -> Result<Json<Page<ReceiptView>>> {
    let limit = query.limit.get();
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let receipts = storage::retention::receipts(
        &mut transaction,
        tenant,
        query.job,
        query.starting_after.map(LineNumber::get),
        limit + 1,
    )
    .await?;
    Ok(Json(Page::new(receipts, limit).map(ReceiptView::from)))
}

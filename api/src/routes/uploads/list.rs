//! `GET /v1/uploads`: a tenant's uploads, newest first.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::id::UploadId;
use common::{database, upload};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::UploadView;
use crate::app::App;
use crate::auth::Tenant;
use crate::base_url::BaseUrl;
use crate::error::{ProblemBody, Result};
use crate::extract::{Parameters, limit, page};

/// Which uploads.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListUploadsQuery {
    /// At most so many.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// The id of the last upload you have: older ones follow.
    #[param(schema_with = UploadId::schema)]
    starting_after: Option<UploadId>,
}

/// A page of uploads.
#[expect(
    clippy::struct_field_names,
    reason = "`direct_uploads` is what clients call it"
)]
#[derive(Debug, Serialize, ToSchema)]
pub struct Uploads {
    pub data: Vec<UploadView>,
    /// Whether older ones follow.
    pub has_more: bool,
    /// Whether `POST /v1/uploads/direct` is offered: files may be put straight into the bucket then.
    pub direct_uploads: bool,
}

/// Your uploads, newest first
#[utoipa::path(
    get,
    path = "/v1/uploads",
    operation_id = "list_uploads",
    tag = "files",
    security(("key" = [])),
    params(ListUploadsQuery),
    responses(
        (status = 200, description = "A page of uploads", body = Uploads),
        (status = 400, description = "A parameter is not usable", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    base: BaseUrl,
    Parameters(which): Parameters<ListUploadsQuery>,
) -> Result<Json<Uploads>> {
    let limit = limit(which.limit)?;
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let (after, most) = (which.starting_after, limit + 1);
    let uploads = upload::store::list(&mut transaction, tenant, after, most).await?;
    transaction.commit().await?;
    drop(connection);
    let (uploads, has_more) = page(uploads, limit);
    let views = uploads
        .iter()
        .map(|upload| UploadView::new(&app, &base, upload));
    Ok(Json(Uploads {
        data: join_all(views).await,
        has_more,
        direct_uploads: app.bucket.signs_links(),
    }))
}

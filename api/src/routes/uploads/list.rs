//! `GET /v1/uploads`: a tenant's uploads, newest first.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::id::UploadId;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use storage::database;
use utoipa::ToSchema;

use super::UploadView;
use crate::app::App;
use crate::auth::Principal;
use crate::base_url::BaseUrl;
use crate::error::Result;
use crate::extract::Parameters;
use crate::paging::{Limit, Page};

/// Which uploads to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListUploadsQuery {
    /// The most uploads to return.
    #[serde(default)]
    #[param(schema_with = Limit::schema)]
    limit: Limit,
    /// The id of the last upload you have. Older uploads follow.
    #[param(schema_with = UploadId::schema)]
    starting_after: Option<UploadId>,
}

/// A page of uploads. It has one field more than [`Page`].
#[expect(
    clippy::struct_field_names,
    reason = "`direct_uploads` is what clients call it"
)]
#[derive(Debug, Serialize, ToSchema)]
pub struct Uploads {
    /// The uploads of this page.
    pub data: Vec<UploadView>,
    /// Whether more uploads follow.
    pub has_more: bool,
    /// Whether files can be put straight into the bucket with `POST /v1/uploads/direct`.
    pub direct_uploads: bool,
}

/// List your uploads, newest first
#[utoipa::path(
    get,
    path = "/v1/uploads",
    operation_id = "list_uploads",
    tag = "files",
    security(("key" = [])),
    params(ListUploadsQuery),
    responses(
        (status = 200, description = "A page of uploads", body = Uploads),
        (status = 400, description = "A parameter is not usable"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    base: BaseUrl,
    Parameters(query): Parameters<ListUploadsQuery>,
) -> Result<Json<Uploads>> {
    let limit = query.limit.get();
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let after = query.starting_after;
    let uploads = storage::uploads::list(&mut transaction, tenant, after, limit + 1).await?;
    transaction.commit().await?;
    // Signing links may take some time, and needs no connection to Postgres.
    drop(connection);
    let Page { data, has_more } = Page::new(uploads, limit);
    let views = data
        .iter()
        .map(|upload| UploadView::new(&app, &base, upload));
    Ok(Json(Uploads {
        data: join_all(views).await,
        has_more,
        direct_uploads: app.bucket.signs_links(),
    }))
}

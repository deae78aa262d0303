//! `GET /v1/models`: all models of the catalogue.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use domain::clock;

use super::ModelView;
use crate::app::App;
use crate::paging::Page;

/// List the models and their prices
///
/// All models are on one page.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "list_models",
    tag = "models",
    responses(
        (status = 200, description = "Every model", body = Page<ModelView>, headers(("ETag" = String, description = "Names this version of the list: send it in `If-None-Match` to get the list only if it has changed"))),
        (status = 304, description = "The list has not changed since the `ETag` in `If-None-Match`"),
    )
)]
pub async fn handler(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    app.models
        .get(&app.catalog, clock::now().date())
        .respond(&headers)
}

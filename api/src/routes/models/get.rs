//! `GET /v1/models/{id}`: one model and its price.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use domain::catalog::NotOffered;
use domain::clock;

use super::ModelView;
use crate::app::App;
use crate::error::Result;

/// Get a model and its price
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    operation_id = "get_model",
    tag = "models",
    params(("id" = String, Path, description = "The id of a model, such as `gemini-3-pro-image`")),
    responses(
        (status = 200, description = "The model", body = ModelView),
        (status = 404, description = "There is no such model"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<ModelView>> {
    match app.catalog.get(&id) {
        Some(model) => Ok(Json(ModelView::new(model, clock::now().date()))),
        None => Err(NotOffered::UnknownModel(id).into()),
    }
}

//! `GET /v1/models`: the catalogue.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::clock;
use serde::Serialize;
use utoipa::ToSchema;

use super::ModelView;
use crate::app::App;

/// The catalogue.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    pub data: Vec<ModelView>,
    /// Always `false`: the catalogue is one page.
    pub has_more: bool,
}

/// The models there are, and their prices
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "list_models",
    tag = "models",
    responses((status = 200, description = "Every model", body = Models))
)]
pub async fn handler(State(app): State<Arc<App>>) -> Json<Models> {
    let today = clock::now().date();
    let data = app
        .catalog
        .models()
        .map(|model| ModelView::new(model, today))
        .collect();
    Json(Models {
        data,
        has_more: false,
    })
}

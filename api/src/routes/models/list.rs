//! `GET /v1/models`: the catalogue.

use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use common::catalog::Catalog;
use common::clock;
use serde::Serialize;
use time::Date;
use utoipa::ToSchema;

use super::ModelView;
use crate::app::App;
use crate::download::StaticContent;

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
    responses(
        (status = 200, description = "Every model", body = Models, headers(("ETag" = String, description = "Of this page: `If-None-Match` asks for it only if it has changed"))),
        (status = 304, description = "The client has it"),
    )
)]
pub async fn handler(State(app): State<Arc<App>>, asked: HeaderMap) -> Response {
    app.models
        .of(&app.catalog, clock::now().date())
        .respond(&asked)
}

/// The page as it was made last. Prices and stages change with the day, the rest with a restart.
#[derive(Clone, Default)]
pub struct Page(Arc<RwLock<Option<(Date, StaticContent)>>>);

impl Page {
    fn of(&self, catalog: &Catalog, today: Date) -> StaticContent {
        let made = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match made {
            Some((day, page)) if day == today => page,
            _ => {
                let models = catalog.models();
                let models = Models {
                    data: models.map(|model| ModelView::new(model, today)).collect(),
                    has_more: false,
                };
                let page = serde_json::to_vec(&models).expect("a view is JSON");
                let page = StaticContent::new("application/json", page);
                let mut made = self.0.write().unwrap_or_else(PoisonError::into_inner);
                *made = Some((today, page.clone()));
                page
            }
        }
    }
}

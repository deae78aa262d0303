//! The answer of `GET /v1/models`, rendered once a day.

use std::sync::{Arc, PoisonError, RwLock};

use domain::catalog::Catalog;
use time::Date;

use super::ModelView;
use crate::download::StaticContent;
use crate::paging::Page;

/// The answer as it was last rendered, with the day it was rendered for. Prices and stages change with the day. Everything else
/// changes only with a restart. Clones share the cache.
#[derive(Clone, Default)]
pub struct ModelsCache(Arc<RwLock<Option<(Date, StaticContent)>>>);

impl ModelsCache {
    /// Returns the answer for `today`, and renders it if the cached answer is from another day.
    pub fn get(&self, catalog: &Catalog, today: Date) -> StaticContent {
        let cached = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match cached {
            Some((day, content)) if day == today => content,
            _ => {
                let models = catalog.models();
                let models = Page {
                    data: models.map(|model| ModelView::new(model, today)).collect(),
                    has_more: false,
                };
                let json = serde_json::to_vec(&models).expect("a view is JSON");
                let content = StaticContent::new("application/json", json);
                let mut cached = self.0.write().unwrap_or_else(PoisonError::into_inner);
                *cached = Some((today, content.clone()));
                content
            }
        }
    }
}

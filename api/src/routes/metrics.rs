//! `/metrics` of this process, and `/metrics/billing` of the whole service.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::telemetry;

use crate::app::App;

/// What this process has counted.
pub async fn process() -> Response {
    prometheus(telemetry::process())
}

/// What the ledger says. Prometheus scrapes it once for the whole service.
pub async fn billing(State(app): State<Arc<App>>) -> Response {
    match telemetry::billing(&app.reader, app.unpaid.abandoned_cost).await {
        Ok(text) => prometheus(text),
        Err(error) => {
            tracing::warn!(%error, "Billing metrics could not be read");
            (StatusCode::SERVICE_UNAVAILABLE, "Postgres cannot be read\n").into_response()
        }
    }
}

fn prometheus(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

//! `/metrics`: the metrics of this process. `/metrics/billing`: the billing metrics of the whole service.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::app::App;

/// The metrics of this process.
pub async fn process() -> Response {
    prometheus(telemetry::process_metrics())
}

/// Billing metrics of the whole service, read from Postgres. Prometheus scrapes them from one process only, because every process
/// gives the same numbers.
pub async fn billing(State(app): State<Arc<App>>) -> Response {
    match common::money::billing::metrics(&app.reader, app.unbilled_limits.abandoned_cost_alert)
        .await
    {
        Ok(text) => prometheus(text),
        Err(error) => {
            tracing::warn!(%error, "Cannot read billing metrics from Postgres");
            (StatusCode::SERVICE_UNAVAILABLE, "Postgres cannot be read\n").into_response()
        }
    }
}

/// A response with metrics in the text format of Prometheus.
fn prometheus(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

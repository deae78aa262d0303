//! The fake's own routes under `/__fake/`: its switches, its journal and its identity provider.

use super::{
    faults::Switches,
    identity::{IdentityProvider, IdentitySwitches},
    journal::Call,
    service::Service,
};
use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) async fn get_faults(State(service): State<Service>) -> Json<Switches> {
    Json(service.faults.get())
}

pub(super) async fn put_faults(
    State(service): State<Service>,
    Json(switches): Json<Switches>,
) -> Json<Switches> {
    service.faults.set(switches);
    Json(service.faults.get())
}

pub(super) async fn get_identity(
    State(identity): State<IdentityProvider>,
) -> Json<IdentitySwitches> {
    Json(identity.switches())
}

pub(super) async fn put_identity(
    State(identity): State<IdentityProvider>,
    Json(switches): Json<IdentitySwitches>,
) -> Json<IdentitySwitches> {
    identity.set(switches);
    Json(identity.switches())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JournalQuery {
    /// Return only this many calls, the latest. Default: 1000.
    last: Option<usize>,
}

/// The journal. `count` is the number of all calls that are kept, polls included. `outcomes` counts only those that
/// asked for images.
pub(super) async fn get_journal(
    State(service): State<Service>,
    Query(query): Query<JournalQuery>,
) -> Json<Value> {
    let calls = service.journal.calls();
    let skipped = calls.len().saturating_sub(query.last.unwrap_or(1000));
    let latest: Vec<&Call> = calls[skipped..].iter().map(AsRef::as_ref).collect();
    Json(json!({"count": calls.len(), "outcomes": service.journal.outcomes(), "calls": latest}))
}

pub(super) async fn clear_journal(State(service): State<Service>) -> StatusCode {
    service.journal.clear();
    StatusCode::NO_CONTENT
}

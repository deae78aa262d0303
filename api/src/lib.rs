//! The HTTP API: accepts jobs, reports what became of them, and gives out the files.
//!
//! [`mod@router`] lists every route, and each route is a file in `routes/`. To follow a job, begin with [`routes::jobs::create`].

// The process, its routes and its state.
pub mod app;
pub mod router;
pub mod routes;
pub mod server;

// Shared by the routes.
pub mod auth;
pub mod base_url;
pub mod budget;
pub mod client;
pub mod connections;
pub mod download;
pub mod error;
pub mod extract;
pub mod header_list;
pub mod idempotency;
pub mod link;
pub mod openapi;
pub mod paging;
pub mod rates;
pub mod readiness;
pub mod request;
pub mod shares;
pub mod submits;
pub mod waiters;

#[cfg(test)]
mod contract_tests;

pub use app::App;
pub use router::{metrics_router, router, worker_metrics_router};
pub use routes::health::WorkerHealth;
pub use server::serve;

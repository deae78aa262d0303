//! The api: takes requests for jobs, tells what became of them, and hands out the pictures.
//!
//! [`mod@router`] lists every route; a route is a file in `routes/`. To follow a job, begin with
//! [`routes::jobs::create`].

// What it is made of.
pub mod app;
pub mod router;
pub mod routes;

// What every route shares.
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
pub mod rates;
pub mod request;
pub mod shares;
pub mod waiters;

pub use app::{App, serve};
pub use router::{metrics_router, router, worker_metrics_router};
pub use routes::health::WorkerHealth;

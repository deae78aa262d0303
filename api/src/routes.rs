//! The routes, one file each. [`mod@crate::router`] has the list of paths.

pub mod admin;
pub mod artifacts;
pub mod console;
pub mod credits;
pub mod errors;
pub mod files;
pub mod health;
pub mod jobs;
pub mod keys;
pub mod metrics;
pub mod models;
pub mod retention;
pub mod storage;
pub mod uploads;

//! Workers: they claim jobs that Redis rings for, call the model, make the pictures and settle.
//!
//! [`tasks`] names every task and schedule on one page; to follow a job, read `tasks/generate.rs`.

pub mod app;
pub mod leases;
pub mod memory;
pub mod providers;
pub mod slots;
mod spool;
pub mod tasks;

pub use app::App;
pub use tasks::run;

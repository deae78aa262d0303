//! The workers: they claim jobs, call the model, render the images, store them and settle the job.
//!
//! [`tasks`] lists every task and schedule on one page. To follow one job, read
//! `tasks/generate.rs`.

pub mod app;
mod database_contact;
mod lane_waiters;
pub mod leases;
mod low_water;
pub mod memory;
pub mod providers;
mod settlements;
pub mod slots;
mod spool;
pub mod tasks;

pub use app::App;
pub use tasks::run;

//! What api and worker share, except values: procedures that own a transaction, and the
//! configuration. To follow a job, begin with [`admission`]. This crate builds on `domain`,
//! `storage`, `queue`, `bucket` and `telemetry`.

// Jobs.
pub mod admission;
pub mod dispatch;
pub mod groups;
mod sets;
pub mod settlement;

// The other procedures.
pub mod files;
pub mod money;
pub mod people;
pub mod verify;

pub mod config;
pub mod connector;
pub mod failpoint;
pub mod keys;
pub mod mail;
pub mod memory;

//! What both binaries must agree on, in four groups.
//!
//! *Vocabulary* is values without IO, *records* are what is kept (`x.rs` pure, `x/store.rs` its SQL),
//! *procedures* are one transaction each, *edges* are one outside library each. To follow a job, begin
//! with [`admission`].

// Vocabulary.
pub mod catalog;
pub mod credits;
pub mod file_name;
pub mod generation;
pub mod id;
pub mod outcome;
pub mod visible;

// Records.
pub mod allowance;
pub mod artifact;
pub mod call;
pub mod idempotency;
pub mod job;
pub mod ledger;
pub mod retention;
pub mod storage;
pub mod tenant;
pub mod upload;

// Procedures.
pub mod admission;
pub mod anchor;
pub mod authentication;
pub mod billing;
pub mod dispatch;
pub mod operator;
pub mod orphans;
pub mod ownership;
pub mod settlement;
pub mod uploading;
pub mod verify;

// Edges.
pub mod bucket;
pub mod clock;
pub mod config;
pub mod database;
pub mod memory;
pub mod queue;
pub mod telemetry;

// For tests that break things.
pub mod failpoint;

//! Values and pure rules: what jobs, credits, models and outcomes are. Nothing here does IO but
//! read a model file.

pub mod allowance;
pub mod api_key;
pub mod artifact;
pub mod call;
pub mod catalog;
pub mod clock;
pub mod credits;
pub mod file_name;
pub mod generation;
pub mod id;
pub mod idempotency;
pub mod job;
pub mod lanes;
pub mod ledger;
pub mod operator;
pub mod outcome;
pub mod ownership;
pub mod permission;
pub mod retention;
pub mod storage_limit;
pub mod stored_file;
pub mod traceparent;
pub mod upload;
pub mod visible;

//! The test harness: the whole pipeline in one process, against real servers, with fake vendors over real HTTP.
//!
//! [`Pipeline`] starts an api and a worker on a database of its own. Every test ends with
//! [`Pipeline::close`], which checks that no job is open and no invariant is broken, whatever the test did.
//!
//! The programs in `src/bin` are long proofs: each starts real processes under load, checks its points with
//! [`proof::Proof`], and exits with 1 if one is violated.
#![expect(clippy::print_stdout, reason = "proofs print what they measured")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

pub mod attack;
pub mod base;
pub mod callgrind;
pub mod chaos;
pub mod clients;
pub mod compose;
pub mod contract;
pub mod customers;
pub mod delivered;
pub mod disk;
pub mod drain;
pub mod figures;
pub mod fleet;
pub mod gcs;
pub mod history;
pub mod models;
pub mod once;
pub mod one_answer;
pub mod options;
pub mod pipeline;
pub mod plain_jobs;
pub mod processes;
pub mod prometheus;
pub mod proof;
pub mod proxy;
pub mod real;
pub mod repository;
pub mod rotation;
pub mod round_trips;
pub mod s3;
pub mod scraped;
pub mod servers;
pub mod structure;
pub mod wait;

pub use options::Options;
pub use pipeline::Pipeline;

/// The absolute form of a path that starts at the root of the repository.
pub fn root(path: &str) -> std::path::PathBuf {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

//! The harness: the whole pipeline in one process, against real servers, with fake vendors over real HTTP.
//!
//! [`Pipeline`] starts an api and a worker on a database of its own. Every test ends with
//! [`Pipeline::close`], which closes the books: no invariant may be broken, whatever the test did.
#![expect(clippy::print_stdout, reason = "prints what it counted")]
#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

pub mod attack;
pub mod base;
pub mod chaos;
pub mod clients;
pub mod compose;
pub mod contract;
pub mod customers;
pub mod delivered;
pub mod disk;
pub mod fleet;
pub mod gcs;
pub mod models;
pub mod once;
pub mod pipeline;
pub mod processes;
pub mod prometheus;
pub mod proxy;
pub mod real;
pub mod rotation;
pub mod s3;
pub mod scraped;
pub mod servers;
mod verdict;

pub use pipeline::{Options, Pipeline};
pub use verdict::verdict;

/// A path from the root of the repository.
pub fn root(path: &str) -> std::path::PathBuf {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

//! `make attack`: attacks by one client, one connection or one tenant, tried on real processes.
//!
//! A case attacks an api and a worker of its own, with the limits of a small container ([`stage`]). It holds if no process
//! died, the health check always answered within a second, and the condition of the case itself is true. Cases that are
//! tests of the suite are run as those tests ([`tested`]).

pub mod connection;
pub mod files;
pub mod request;
pub mod stage;
pub mod tenant;
pub mod tested;

use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;

use stage::Stage;

/// The result of a case: what it measured, or what did not hold.
pub type Outcome = anyhow::Result<String>;

/// One attack.
pub struct Case {
    /// The row of the list of attacks, such as `A.1`.
    pub row: &'static str,
    /// What is tried.
    pub says: &'static str,
    /// Tries it.
    pub attack: for<'a> fn(&'a Stage) -> LocalBoxFuture<'a, Outcome>,
}

/// Does some work, and returns how long it took and its result.
pub async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let began = Instant::now();
    let result = work.await;
    (began.elapsed(), result)
}

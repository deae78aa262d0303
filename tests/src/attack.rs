//! `make attack`: what one client, connection or tenant may take from everybody else, tried on real processes.
//!
//! A case attacks an api and a worker of its own, with the limits of a small container ([`stage`]), and is held when
//! nothing died, health answered within a second throughout, and what the case itself asks for is true. Cases that
//! have a test in the suite are run as that test ([`tested`]).

pub mod connection;
pub mod files;
pub mod request;
pub mod stage;
pub mod tenant;
pub mod tested;

use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;

use stage::Stage;

/// What a case came to: what it measured, or what did not hold.
pub type Outcome = anyhow::Result<String>;

/// A case: the row of the list it belongs to, what is tried, and how.
pub struct Case {
    pub row: &'static str,
    pub says: &'static str,
    pub attack: for<'a> fn(&'a Stage) -> LocalBoxFuture<'a, Outcome>,
}

/// How long each of so many requests took, the 95th of a hundred. Sorts them.
pub fn p95(took: &mut [Duration]) -> Duration {
    took.sort_unstable();
    let last = took.len().saturating_sub(1);
    took.get((took.len() * 95 / 100).min(last))
        .copied()
        .unwrap_or_default()
}

/// How long something took, in whole milliseconds, beside what came of it.
pub async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let began = Instant::now();
    let came = work.await;
    (began.elapsed(), came)
}

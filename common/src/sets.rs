//! Requests of one tenant that share a transaction: all are written, or none is.

use std::fmt::Display;
use std::io;

use futures::future::BoxFuture;
use storage::database::{self, PostgresError};

/// Runs requests in sets of at most `max_size`, and returns a result for each, in their order. `run`
/// runs a set in a transaction of its own. It returns a result for each request of the set, or an
/// error if nothing was written.
///
/// If Postgres refuses to write a set, its halves are tried alone, down to the request that is
/// refused. If Postgres cannot be reached, every request of the set gets the error; what was
/// committed before stays. A set is tried once more if the schema has changed since the statements
/// were prepared.
pub(crate) async fn run_in_sets<'a, T, R, E>(
    requests: &'a [T],
    max_size: usize,
    run: impl Fn(&'a [T]) -> BoxFuture<'a, Result<Vec<Result<R, E>>, E>>,
) -> Vec<Result<R, E>>
where
    E: PostgresError + Display,
{
    let mut results = Vec::with_capacity(requests.len());
    // Sets that are still to be run; the next one is the last.
    let mut sets: Vec<&[T]> = requests.chunks(max_size).rev().collect();
    while let Some(set) = sets.pop() {
        let result = match database::with_timeout(run(set)).await {
            Err(error)
                if (error.postgres())
                    .is_some_and(database::renew_connections_if_schema_changed) =>
            {
                database::with_timeout(run(set)).await
            }
            result => result,
        };
        match result {
            Ok(done) => results.extend(done),
            Err(error) if set.len() == 1 => results.push(Err(error)),
            Err(error) if error.postgres().is_some_and(database::is_transient) => {
                // The error cannot be copied for each request. An error of IO means the same: a
                // later try may succeed.
                let error = error.to_string();
                results.extend(set.iter().map(|_| {
                    let error = io::Error::other(error.clone());
                    Err(sqlx::Error::from(error).into())
                }));
            }
            Err(error) => {
                tracing::warn!(%error, requests = set.len(), "Postgres refused a set of requests; its halves are tried alone");
                let (first, second) = set.split_at(set.len() / 2);
                sets.push(second);
                sets.push(first);
            }
        }
    }
    results
}

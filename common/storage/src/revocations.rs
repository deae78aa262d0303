//! Listens for API keys that are revoked. A trigger sends their ids (`NOTIFY`), in the transaction
//! that revokes them.

use std::io;
use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{Executor, PgPool};
use tokio::time::timeout;

/// The channel, as the trigger `revoked_keys_are_told` names it.
const CHANNEL: &str = "platen_revoked_keys";
/// How long a listener waits before it tests its connection.
const TEST_INTERVAL: Duration = Duration::from_secs(2);
/// How long the connection may take to answer the test.
const TEST_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that hears of revoked keys from the moment at which it was opened.
pub struct Revocations(PgListener);

impl Revocations {
    /// Begins to listen, with a connection of this pool.
    ///
    /// # Errors
    /// Returns an error if Postgres fails, or if no connection becomes free.
    pub async fn listen(pool: &PgPool) -> sqlx::Result<Self> {
        let mut listener = PgListener::connect_with(pool).await?;
        // Otherwise `try_recv` would first open another connection, and only then report that the
        // old one was lost. If the timeout in `next` ended it between the two, nobody would learn
        // that revocations may be lost.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(Self(listener))
    }

    /// Waits for the next key that is revoked, and returns its id.
    ///
    /// # Errors
    /// Returns an error if the connection is lost. Revocations may then be missed.
    pub async fn next(&mut self) -> sqlx::Result<String> {
        loop {
            match timeout(TEST_INTERVAL, self.0.try_recv()).await {
                Ok(Ok(Some(revoked))) => return Ok(revoked.payload().to_owned()),
                Ok(Ok(None)) => {
                    return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
                }
                Ok(Err(error)) => return Err(error),
                // A connection that broke without being closed would be silent forever.
                Err(_) => {
                    let test = self.0.execute("-- tenant::test_listener\nSELECT 1");
                    timeout(TEST_TIMEOUT, test)
                        .await
                        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                }
            }
        }
    }
}

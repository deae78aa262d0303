//! The line to Redis that everybody of a process shares, but for the pop.
//!
//! Its manager connects again when a connection breaks, but not when one falls silent: after a failover whose old server
//! vanished every question would run into its time-out for as long as the kernel believes in the connection. So one
//! that does not answer is hung up, and the next question dials anew.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::FutureExt;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};

/// How long a connection, and an answer, may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Clones share it.
#[derive(Clone)]
pub(super) struct Line {
    client: Client,
    current: Arc<RwLock<Dialled>>,
}

#[derive(Clone)]
struct Dialled {
    connection: ConnectionManager,
    /// How often it was dialled: whoever waits on an older one hangs up nobody else's.
    number: u64,
}

impl Line {
    /// Dials when first asked.
    pub(super) fn new(client: Client) -> RedisResult<Self> {
        let connection = dial(&client)?;
        let dialled = Dialled {
            connection,
            number: 0,
        };
        Ok(Self {
            client,
            current: Arc::new(RwLock::new(dialled)),
        })
    }

    fn current(&self) -> Dialled {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hangs up where that was no answer.
    fn heard<T>(&self, answer: RedisResult<T>, number: u64) -> RedisResult<T> {
        if answer.as_ref().is_err_and(RedisError::is_timeout) {
            self.hang_up(number)?;
        }
        answer
    }

    fn hang_up(&self, number: u64) -> RedisResult<()> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.number == number {
            *current = Dialled {
                connection: dial(&self.client)?,
                number: number + 1,
            };
        }
        Ok(())
    }
}

impl ConnectionLike for Line {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let mut dialled = self.current();
        async move {
            let answer = dialled.connection.req_packed_command(command).await;
            self.heard(answer, dialled.number)
        }
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let mut dialled = self.current();
        async move {
            let connection = &mut dialled.connection;
            let answer = connection
                .req_packed_commands(commands, offset, count)
                .await;
            self.heard(answer, dialled.number)
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        self.current().connection.get_db()
    }
}

fn dial(client: &Client) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE))
        .set_number_of_retries(1);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

//! The line to Redis that everybody of a process shares, but for the pop.
//!
//! Its manager connects again when a connection breaks, but not when one falls silent: after a failover whose old server
//! vanished every question would run into its time-out for as long as the kernel believes in the connection. So one
//! that does not answer is hung up and dialled anew. Until it answers, one question at a time tries it for a moment, with a
//! rest between; all others fail at once, as they do when Redis is gone: no job waits for a Redis that hangs.

use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::FutureExt;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::time::timeout;

/// How long a connection, and an answer, may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a question tries a silent Redis, and from one that tries it to the next.
const TRIAL: Duration = Duration::from_millis(200);
const REST: Duration = Duration::from_secs(3);

/// Clones share it.
#[derive(Clone)]
pub(super) struct Line {
    client: Client,
    dialled: Arc<Mutex<Dialled>>,
}

/// A connection to ask on.
struct Call {
    connection: ConnectionManager,
    number: u64,
    patience: Duration,
}

struct Dialled {
    connection: ConnectionManager,
    /// How often it was dialled: whoever waits on an older one hangs up nobody else's.
    number: u64,
    /// Since the last one was hung up nothing was heard; when the next question may try.
    silent_until: Option<Instant>,
}

impl Line {
    /// Dials when first asked.
    pub(super) fn new(client: Client) -> RedisResult<Self> {
        let dialled = Dialled {
            connection: dial(&client)?,
            number: 0,
            silent_until: None,
        };
        Ok(Self {
            client,
            dialled: Arc::new(Mutex::new(dialled)),
        })
    }

    fn dialled(&self) -> MutexGuard<'_, Dialled> {
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails when it is silent and somebody tries it already, or has just tried.
    fn pick_up(&self) -> RedisResult<Call> {
        let mut dialled = self.dialled();
        let now = Instant::now();
        let patience = match dialled.silent_until {
            None => PATIENCE,
            Some(until) if now < until => return Err(silence()),
            Some(_) => {
                dialled.silent_until = Some(now + REST);
                TRIAL
            }
        };
        Ok(Call {
            connection: dialled.connection.clone(),
            number: dialled.number,
            patience,
        })
    }

    /// Hangs up where that was no answer.
    fn heard<T>(&self, answer: RedisResult<T>, number: u64) -> RedisResult<T> {
        let silent = answer.as_ref().is_err_and(RedisError::is_timeout);
        let mut dialled = self.dialled();
        if dialled.number == number && silent {
            *dialled = Dialled {
                connection: dial(&self.client)?,
                number: number + 1,
                silent_until: Some(Instant::now() + REST),
            };
        } else if dialled.number == number {
            dialled.silent_until = None;
        }
        answer
    }
}

impl ConnectionLike for Line {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            let mut call = self.pick_up()?;
            let answer = call.connection.req_packed_command(command);
            let answer = within(call.patience, answer).await;
            self.heard(answer, call.number)
        }
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        async move {
            let mut call = self.pick_up()?;
            let answer = call.connection.req_packed_commands(commands, offset, count);
            let answer = within(call.patience, answer).await;
            self.heard(answer, call.number)
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        self.dialled().connection.get_db()
    }
}

async fn within<T>(patience: Duration, answer: RedisFuture<'_, T>) -> RedisResult<T> {
    timeout(patience, answer)
        .await
        .unwrap_or_else(|_| Err(silence()))
}

fn silence() -> RedisError {
    let silent = "Redis does not answer; it is asked again in a moment";
    Error::new(ErrorKind::TimedOut, silent).into()
}

fn dial(client: &Client) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE))
        .set_number_of_retries(1);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

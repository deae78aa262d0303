//! The connection to Redis that all tasks of a process share, except the blocking pop.
//!
//! It is opened when it is first needed. It is opened again after each failure that a new
//! connection may cure: the old connection broke, gives no more answers, leads to a replica, or its
//! login was rejected. Each attempt reads the address again. The second attempt follows the first
//! at once, the third follows after 50 ms, and then the delay grows to one second. Commands that
//! come before the next attempt fail at once with the newest error, because no job should wait for
//! a Redis that is unavailable.
//!
//! A Redis that accepts connections and does not answer is worse, because each command would wait
//! for its whole timeout. So once in three seconds one command probes Redis, with a short timeout.
//! All other commands fail at once.

use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt, Shared};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::time::timeout;

use super::address::Address;
use super::failure::RedisFailure;

/// How long opening a connection and getting an answer may take together.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a command may wait for a Redis that gave no answer before.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);
/// Time between two such probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(3);
/// Time from the second failure in a row to the next attempt to connect; it doubles with each
/// further one. After the first failure there is no delay.
const FIRST_DELAY: Duration = Duration::from_millis(50);
/// The longest time between two attempts to connect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// A connection, or the attempt to open it. All commands that need the connection wait for the same
/// attempt.
type Opening = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

/// A connection that opens and reopens itself. Clones share it.
#[derive(Clone)]
pub(super) struct SharedConnection {
    address: Address,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The connection, or the attempt to open it. `None` if the next command opens one.
    opening: Option<Opening>,
    /// How often a connection was opened. An answer on an older connection says nothing about the
    /// present one.
    generation: u64,
    /// Failures in a row.
    failures: u32,
    /// The newest failure, and when the next command may try to connect, or may probe a Redis that
    /// does not answer. `None` after a success.
    last_failure: Option<(RedisError, Instant)>,
}

/// The connection on which a command is sent, and the command's timeout.
struct Checkout {
    opening: Opening,
    /// See [`State::generation`].
    generation: u64,
    timeout: Duration,
}

impl State {
    /// Whether Redis gave no answer in time.
    fn is_silent(&self) -> bool {
        self.last_failure
            .as_ref()
            .is_some_and(|(error, _)| error.is_timeout())
    }
}

impl SharedConnection {
    /// A connection that the first command opens.
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the connection for one command, and opens it if there is none.
    ///
    /// # Errors
    /// Returns the newest failure if it is too early for the next attempt, or if another command
    /// probes a Redis that does not answer.
    fn checkout(&self) -> RedisResult<Checkout> {
        let mut state = self.state();
        let now = Instant::now();
        let (is_silent, is_closed) = (state.is_silent(), state.opening.is_none());
        if let Some((error, next_try)) = &mut state.last_failure
            && (is_silent || is_closed)
        {
            if now < *next_try {
                return Err(error.clone());
            }
            // This command is the probe. The next probe may follow after `PROBE_INTERVAL`, even if
            // this command is dropped and never reports its result.
            if is_silent {
                *next_try = now + PROBE_INTERVAL;
            }
        }
        if is_closed {
            state.generation += 1;
        }
        let generation = state.generation;
        let opening = state.opening.get_or_insert_with(|| {
            let address = self.address.clone();
            let opening = async move { address.connect(RESPONSE_TIMEOUT, RESPONSE_TIMEOUT).await };
            opening.boxed().shared()
        });
        Ok(Checkout {
            opening: opening.clone(),
            generation,
            timeout: if is_silent {
                PROBE_TIMEOUT
            } else {
                RESPONSE_TIMEOUT
            },
        })
    }

    /// Records how a command ended. A failure that a new connection may cure closes the present
    /// connection.
    fn record<T>(&self, generation: u64, answer: &RedisResult<T>) {
        let mut state = self.state();
        // Many commands fail together when a connection breaks. Only the first failure counts.
        // Otherwise the delay would double once for each failed command, and a new connection would
        // be closed, too.
        if state.generation != generation || state.opening.is_none() {
            return;
        }
        let failure = answer.as_ref().err();
        // Any other error is an answer, too: Redis is available, and refused one command.
        let failure = failure.filter(|error| {
            RedisFailure::classify(error).is_some_and(RedisFailure::wants_new_connection)
        });
        let Some(error) = failure else {
            state.failures = 0;
            state.last_failure = None;
            return;
        };
        let delay = if error.is_timeout() {
            PROBE_INTERVAL
        } else {
            delay_after(state.failures)
        };
        state.opening = None;
        state.failures = state.failures.saturating_add(1);
        state.last_failure = Some((error.clone(), Instant::now() + delay));
    }

    /// Sends a command, or a pipeline, and records how it ended.
    async fn run<T>(
        &self,
        send: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> RedisResult<T> {
        let checkout = self.checkout()?;
        // The timeout includes opening the connection.
        let answer = timeout(checkout.timeout, async {
            send(checkout.opening.await?).await
        });
        let answer = answer.await.unwrap_or_else(|_| Err(no_answer()));
        self.record(checkout.generation, &answer);
        answer
    }
}

impl ConnectionLike for SharedConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.run(async move |mut connection| connection.req_packed_command(command).await)
            .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.run(async move |mut connection| {
            connection
                .req_packed_commands(commands, offset, count)
                .await
        })
        .boxed()
    }

    /// Always 0, because only connection pools and clusters use this number.
    fn get_db(&self) -> i64 {
        0
    }
}

/// Time from a failure to the next attempt to connect. `failures` is the number of failures in a
/// row before this one.
fn delay_after(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_DELAY
            .saturating_mul(2_u32.saturating_pow(doublings))
            .min(MAX_RECONNECT_DELAY),
    }
}

fn no_answer() -> RedisError {
    let text = "Redis does not answer; it is asked again in a moment";
    Error::new(ErrorKind::TimedOut, text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_to_connect_become_rarer() {
        let delays = [0, 1, 2, 5, 6, 100].map(|failures| delay_after(failures).as_millis());
        assert_eq!(delays, [0, 50, 100, 800, 1_000, 1_000]);
    }

    /// Sends a thousand commands in a second to a server that closes each connection it accepts.
    #[tokio::test]
    async fn connections_to_a_failing_redis_are_bounded() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}/0", server.local_addr().unwrap());
        let connections = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&connections);
        let mut closing = tokio::task::JoinSet::new();
        closing.spawn(async move {
            while server.accept().await.is_ok() {
                *counter.lock().unwrap() += 1;
            }
        });
        let connection = SharedConnection::new(Address::from(url.as_str()));
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            let mut connection = connection.clone();
            let answer: RedisResult<String> = redis::cmd("PING").query_async(&mut connection).await;
            let failure = RedisFailure::classify(&answer.unwrap_err());
            assert_eq!(failure, Some(RedisFailure::Broken));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(closing);
        // At 0, 0, 50, 150, 350 and 750 ms.
        let connections = *connections.lock().unwrap();
        assert!(
            (3..=8).contains(&connections),
            "{connections} connections in a second"
        );
    }
}

//! The connection to Redis that everybody of a process shares, but for the blocking pop.
//!
//! It is dialled when it is first needed and again after every failure that says something against it: it broke, it
//! fell silent, it leads to a replica, its login is not accepted. Each dial reads the address anew. Dials are
//! bounded: after the first at once, then after 50 ms, and at last one a second. Commands in between fail at once,
//! with the newest reason: no job waits for a Redis that is away. One that falls silent is asked by one command at a
//! time, for a moment, with three seconds between.

use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt, Shared};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::time::timeout;

use super::address::Address;
use super::trouble::Trouble;

/// How long a connection, and an answer, may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a command asks a silent Redis, and from one that asks it to the next.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);
const PROBE_INTERVAL: Duration = Duration::from_secs(3);
/// Time from a failure to the next dial: the second one in a row, and the longest.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// A connection, or the dial that whoever needs it waits for.
type Dial = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

/// Clones share it.
#[derive(Clone)]
pub(super) struct SharedConnection {
    address: Address,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// `None`: to be dialled by the next command.
    dial: Option<Dial>,
    /// How often it was dialled: an answer on an older connection says nothing of this one.
    number: u64,
    /// Failures since the last answer.
    failures: u32,
    /// The newest of them, and when the next command may try.
    failed: Option<(RedisError, Instant)>,
}

/// What a command is sent on.
struct Checkout {
    dial: Dial,
    number: u64,
    timeout: Duration,
}

impl State {
    fn is_silent(&self) -> bool {
        self.failed
            .as_ref()
            .is_some_and(|(error, _)| error.is_timeout())
    }
}

impl SharedConnection {
    /// Dials when first asked.
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails when it is too early for the next dial, or when a silent Redis is asked by another command.
    fn checkout(&self) -> RedisResult<Checkout> {
        let mut state = self.state();
        let now = Instant::now();
        let (silent, undialled) = (state.is_silent(), state.dial.is_none());
        if let Some((error, next)) = &mut state.failed
            && (silent || undialled)
        {
            if now < *next {
                return Err(error.clone());
            }
            if silent {
                *next = now + PROBE_INTERVAL;
            }
        }
        if undialled {
            state.number += 1;
        }
        let number = state.number;
        let dial = state.dial.get_or_insert_with(|| {
            let address = self.address.clone();
            let dial = async move { address.dial(RESPONSE_TIMEOUT, RESPONSE_TIMEOUT).await };
            dial.boxed().shared()
        });
        Ok(Checkout {
            dial: dial.clone(),
            number,
            timeout: if silent {
                PROBE_TIMEOUT
            } else {
                RESPONSE_TIMEOUT
            },
        })
    }

    /// Learns from an answer, or from its absence.
    fn learn<T>(&self, number: u64, answer: &RedisResult<T>) {
        let mut state = self.state();
        // Of several that failed together the first one speaks for all.
        if state.number != number || state.dial.is_none() {
            return;
        }
        let failure = answer.as_ref().err();
        let failure =
            failure.filter(|error| Trouble::of(error).is_some_and(Trouble::wants_new_connection));
        let Some(error) = failure else {
            state.failures = 0;
            state.failed = None;
            return;
        };
        let delay = if error.is_timeout() {
            PROBE_INTERVAL
        } else {
            delay_after(state.failures)
        };
        state.dial = None;
        state.failures = state.failures.saturating_add(1);
        state.failed = Some((error.clone(), Instant::now() + delay));
    }

    /// Sends a command, or several, and learns from the answer.
    async fn ask<T>(
        &self,
        send: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> RedisResult<T> {
        let checkout = self.checkout()?;
        let answer = timeout(checkout.timeout, async { send(checkout.dial.await?).await });
        let answer = answer.await.unwrap_or_else(|_| Err(silence()));
        self.learn(checkout.number, &answer);
        answer
    }
}

impl ConnectionLike for SharedConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.ask(async move |mut connection| connection.req_packed_command(command).await)
            .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.ask(async move |mut connection| {
            connection
                .req_packed_commands(commands, offset, count)
                .await
        })
        .boxed()
    }

    /// Asked by pools and clusters only, which this is not.
    fn get_db(&self) -> i64 {
        0
    }
}

/// Time from a failure to the next dial, after so many failures before it.
fn delay_after(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_DELAY
            .saturating_mul(2_u32.saturating_pow(doublings))
            .min(MAX_RECONNECT_DELAY),
    }
}

fn silence() -> RedisError {
    let silent = "Redis does not answer; it is asked again in a moment";
    Error::new(ErrorKind::TimedOut, silent).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dials_become_rarer() {
        let delays = [0, 1, 2, 5, 6, 100].map(|failures| delay_after(failures).as_millis());
        assert_eq!(delays, [0, 50, 100, 800, 1_000, 1_000]);
    }

    /// A thousand commands in a second, to a server that closes each connection it takes.
    #[tokio::test]
    async fn a_failing_redis_is_dialled_a_bounded_number_of_times() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}/0", server.local_addr().unwrap());
        let dialled = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&dialled);
        let mut closing = tokio::task::JoinSet::new();
        closing.spawn(async move {
            while server.accept().await.is_ok() {
                *counted.lock().unwrap() += 1;
            }
        });
        let connection = SharedConnection::new(Address::from(url.as_str()));
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            let mut connection = connection.clone();
            let answer: RedisResult<String> = redis::cmd("PING").query_async(&mut connection).await;
            let trouble = Trouble::of(&answer.unwrap_err());
            assert_eq!(trouble, Some(Trouble::Broken));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(closing);
        // At 0, 0, 50, 150, 350 and 750 ms.
        let dialled = *dialled.lock().unwrap();
        assert!((3..=8).contains(&dialled), "{dialled} dials in a second");
    }
}

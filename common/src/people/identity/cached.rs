//! Keeps a document of a provider, such as its keys, and fetches it again when it is needed.
//!
//! - A document is *fresh* for the time that its provider allows. While a document that is no longer
//!   fresh is fetched again, it is still used, and for up to six hours while the provider is away.
//! - At most one fetch is in flight. All callers that need its result wait for the same one.
//! - A document may not suffice, because a token names a key that it does not have. Then it is fetched
//!   again, at most once a minute however many tokens ask for it. So forged tokens cannot make us
//!   flood a provider.
//!
//! A fetch is a task of its own. A caller that gives up does not end it: otherwise clients that
//! disconnect at once could prevent every refresh.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::http::{FetchError, Fetched};

/// How long documents of providers are kept, and how often they are fetched. `Default` has the times
/// for production; tests use shorter ones.
#[derive(Clone, Copy, Debug)]
pub struct CacheTiming {
    /// Least time between the beginnings of two fetches while there is a document.
    pub fetch_interval: Duration,
    /// The same while there is none.
    pub retry_interval: Duration,
    /// How long a document is fresh if the provider does not say it.
    pub default_age: Duration,
    /// How long a document is fresh at most.
    pub max_age: Duration,
    /// How long a document is used after it was fresh.
    pub stale: Duration,
}

impl Default for CacheTiming {
    fn default() -> Self {
        Self {
            fetch_interval: Duration::from_mins(1),
            retry_interval: Duration::from_secs(5),
            default_age: Duration::from_hours(1),
            max_age: Duration::from_hours(24),
            stale: Duration::from_hours(6),
        }
    }
}

/// The provider gives no document, and there is none that may still be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the identity provider cannot be asked: {why}")]
pub struct Unavailable {
    why: String,
}

/// Fetches a document.
pub(super) type Fetch<T> =
    Box<dyn Fn() -> BoxFuture<'static, Result<Fetched<T>, FetchError>> + Send + Sync>;

/// A document that is fetched when it is needed.
pub(super) struct Cached<T> {
    shared: Arc<Shared<T>>,
    /// The fetch in flight. It ends when this value is dropped.
    tasks: Mutex<JoinSet<()>>,
}

struct Shared<T> {
    /// The name of the document, for logs.
    name: &'static str,
    fetch: Fetch<T>,
    timing: CacheTiming,
    state: Mutex<State<T>>,
    /// Counts the fetches that have ended.
    ended: watch::Sender<u64>,
}

struct State<T> {
    entry: Option<Entry<T>>,
    is_fetching: bool,
    last_began: Option<Instant>,
    /// Why the last fetch failed; `None` if it did not.
    failure: Option<String>,
}

struct Entry<T> {
    document: Arc<T>,
    fresh_until: Instant,
    usable_until: Instant,
}

/// What to do for a caller.
enum Step<T> {
    Use(Arc<T>),
    /// The same, and fetch it again.
    Refresh(Arc<T>),
    /// Begin a fetch and wait for its end.
    Fetch,
    /// Wait for the end of the fetch in flight.
    Wait,
    Fail(Unavailable),
}

impl<T: Send + Sync + 'static> Cached<T> {
    pub(super) fn new(name: &'static str, timing: CacheTiming, fetch: Fetch<T>) -> Self {
        Self {
            shared: Arc::new(Shared {
                name,
                fetch,
                timing,
                state: Mutex::new(State::default()),
                ended: watch::Sender::new(0),
            }),
            tasks: Mutex::default(),
        }
    }

    /// Returns the document. If the one that is kept does not suffice and a fetch is allowed, it is
    /// fetched again. So the result may still not suffice.
    ///
    /// # Errors
    /// Returns an error if there is no document that may be used, or if the one that is kept does not
    /// suffice and the last fetch failed.
    pub(super) async fn get(&self, suffices: impl Fn(&T) -> bool) -> Result<Arc<T>, Unavailable> {
        let mut ended = self.shared.ended.subscribe();
        match self.next_step(&suffices, true) {
            Step::Use(document) | Step::Refresh(document) => return Ok(document),
            Step::Fail(error) => return Err(error),
            Step::Fetch | Step::Wait => {}
        }
        // The sender lives as long as `self`.
        let _result = ended.changed().await;
        match self.next_step(&suffices, false) {
            Step::Use(document) | Step::Refresh(document) => Ok(document),
            Step::Fail(error) => Err(error),
            Step::Fetch | Step::Wait => Err(self.shared.state().unavailable()),
        }
    }

    /// Decides what to do for a caller, and begins a fetch if that is part of it.
    fn next_step(&self, suffices: &impl Fn(&T) -> bool, may_wait: bool) -> Step<T> {
        let now = Instant::now();
        let mut state = self.shared.state();
        let step = state.step(now, &self.shared.timing, suffices, may_wait);
        if matches!(step, Step::Refresh(_) | Step::Fetch) {
            state.is_fetching = true;
            state.last_began = Some(now);
            drop(state);
            self.begin_fetch();
        }
        step
    }

    fn begin_fetch(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let in_flight = InFlight(Arc::clone(&self.shared));
        tasks.spawn(async move {
            let result = (in_flight.0.fetch)().await;
            in_flight.0.record(result);
        });
    }
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, result: Result<Fetched<T>, FetchError>) {
        match result {
            Ok(fetched) => self.state().store(Instant::now(), &self.timing, fetched),
            Err(error) => {
                tracing::warn!(document = self.name, %error, "A document of an identity provider could not be fetched");
                self.state().failure = Some(error.to_string());
            }
        }
    }
}

impl<T> State<T> {
    /// `may_wait` is false for a caller that has waited for a fetch already.
    fn step(
        &self,
        now: Instant,
        timing: &CacheTiming,
        suffices: &impl Fn(&T) -> bool,
        may_wait: bool,
    ) -> Step<T> {
        let entry = self.entry.as_ref().filter(|entry| now < entry.usable_until);
        let interval = match entry {
            Some(_) => timing.fetch_interval,
            None => timing.retry_interval,
        };
        let is_rested = (self.last_began).is_none_or(|began| now.duration_since(began) >= interval);
        let may_fetch = !self.is_fetching && is_rested;
        match entry {
            Some(entry) if suffices(&entry.document) => {
                let document = Arc::clone(&entry.document);
                if now >= entry.fresh_until && may_fetch {
                    Step::Refresh(document)
                } else {
                    Step::Use(document)
                }
            }
            _ if may_wait && may_fetch => Step::Fetch,
            _ if may_wait && self.is_fetching => Step::Wait,
            // The provider was asked lately, and the document is still without it.
            Some(entry) if self.failure.is_none() => Step::Use(Arc::clone(&entry.document)),
            _ => Step::Fail(self.unavailable()),
        }
    }

    fn store(&mut self, now: Instant, timing: &CacheTiming, fetched: Fetched<T>) {
        let age = fetched.max_age.unwrap_or(timing.default_age);
        let fresh_until = now + age.clamp(timing.fetch_interval, timing.max_age);
        self.entry = Some(Entry {
            document: Arc::new(fetched.document),
            fresh_until,
            usable_until: fresh_until + timing.stale,
        });
        self.failure = None;
    }

    fn unavailable(&self) -> Unavailable {
        let why = self.failure.clone();
        Unavailable {
            why: why.unwrap_or_else(|| "no fetch has succeeded yet".to_owned()),
        }
    }
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            entry: None,
            is_fetching: false,
            last_began: None,
            failure: None,
        }
    }
}

/// A fetch in flight. When this value is dropped, however the fetch ended, callers wait no longer.
struct InFlight<T>(Arc<Shared<T>>);

impl<T> Drop for InFlight<T> {
    fn drop(&mut self) {
        self.0.state().is_fetching = false;
        self.0
            .ended
            .send_modify(|ended| *ended = ended.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: CacheTiming = CacheTiming {
        fetch_interval: Duration::from_mins(1),
        retry_interval: Duration::from_secs(5),
        default_age: Duration::from_hours(1),
        max_age: Duration::from_hours(24),
        stale: Duration::from_hours(6),
    };

    /// The state of a cache that holds numbers, at a time in seconds after its beginning.
    struct Game {
        state: State<u32>,
        began: Instant,
    }

    impl Game {
        fn new() -> Self {
            Self {
                state: State::default(),
                began: Instant::now(),
            }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.began + Duration::from_secs(seconds)
        }

        /// What a caller is told that needs at least this number.
        fn ask(&self, seconds: u64, least: u32) -> &'static str {
            let suffices = |number: &u32| *number >= least;
            match self.state.step(self.at(seconds), &TIMING, &suffices, true) {
                Step::Use(_) => "use",
                Step::Refresh(_) => "refresh",
                Step::Fetch => "fetch",
                Step::Wait => "wait",
                Step::Fail(_) => "fail",
            }
        }

        fn begin(&mut self, seconds: u64) {
            self.state.is_fetching = true;
            self.state.last_began = Some(self.at(seconds));
        }

        fn end(&mut self, seconds: u64, result: Option<(u32, Option<u64>)>) {
            self.state.is_fetching = false;
            match result {
                Some((document, age)) => {
                    let max_age = age.map(Duration::from_secs);
                    let fetched = Fetched { document, max_age };
                    self.state.store(self.at(seconds), &TIMING, fetched);
                }
                None => self.state.failure = Some("away".to_owned()),
            }
        }
    }

    #[test]
    fn a_document_is_fetched_once_and_kept_for_its_age() {
        let mut game = Game::new();
        assert_eq!(game.ask(0, 1), "fetch");
        game.begin(0);
        assert_eq!(game.ask(0, 1), "wait");
        game.end(1, Some((1, Some(600))));
        assert_eq!(game.ask(1, 1), "use");
        assert_eq!(game.ask(600, 1), "use");
        assert_eq!(game.ask(601, 1), "refresh");
        game.begin(601);
        assert_eq!(game.ask(601, 1), "use", "nobody waits for a refresh");
    }

    #[test]
    fn the_age_of_a_document_is_bounded() {
        for (age, fresh) in [
            (None, 3_600),
            (Some(0), 60),
            (Some(59), 60),
            (Some(90), 90),
            (Some(10_000_000), 24 * 3_600),
        ] {
            let mut game = Game::new();
            game.begin(0);
            game.end(0, Some((1, age)));
            assert_eq!(game.ask(fresh - 1, 1), "use", "{age:?}");
            assert_eq!(game.ask(fresh, 1), "refresh", "{age:?}");
        }
    }

    #[test]
    fn what_is_unknown_is_asked_for_once_a_minute() {
        let mut game = Game::new();
        game.begin(0);
        game.end(0, Some((1, Some(3_600))));
        assert_eq!(
            game.ask(59, 2),
            "use",
            "the caller sees that it does not suffice"
        );
        assert_eq!(game.ask(60, 2), "fetch");
        game.begin(60);
        assert_eq!(game.ask(60, 2), "wait");
        assert_eq!(game.ask(60, 1), "use", "what is known does not wait");
        game.end(61, Some((1, Some(3_600))));
        assert_eq!(game.ask(119, 2), "use");
        assert_eq!(game.ask(120, 2), "fetch");
    }

    #[test]
    fn a_stale_document_is_used_for_six_hours() {
        let mut game = Game::new();
        game.begin(0);
        game.end(0, Some((1, Some(600))));
        game.begin(600);
        game.end(605, None);
        assert_eq!(game.ask(606, 1), "use");
        assert_eq!(
            game.ask(606, 2),
            "fail",
            "whether it is unknown cannot be said"
        );
        assert_eq!(game.ask(659, 1), "use");
        assert_eq!(game.ask(660, 1), "refresh");
        let end = 600 + 6 * 3_600;
        assert_eq!(game.ask(end - 1, 1), "refresh");
        assert_eq!(game.ask(end, 1), "fetch");
    }

    #[test]
    fn without_a_document_it_is_tried_every_five_seconds() {
        let mut game = Game::new();
        game.begin(0);
        game.end(1, None);
        assert_eq!(game.ask(4, 1), "fail");
        assert_eq!(game.ask(5, 1), "fetch");
    }

    #[tokio::test]
    async fn a_fetch_that_panics_leaves_nobody_waiting() {
        fn planted() -> FetchError {
            panic!("planted")
        }
        let fetch: Fetch<u32> = Box::new(|| Box::pin(async { Err(planted()) }));
        let cached = Cached::new("planted", CacheTiming::default(), fetch);
        assert!(cached.get(|_| true).await.is_err());
        assert!(!cached.shared.state().is_fetching);
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_does_not_end_the_fetch() {
        let fetch: Fetch<u32> = Box::new(|| {
            Box::pin(async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(Fetched {
                    document: 7,
                    max_age: None,
                })
            })
        });
        let cached = Cached::new("slow", CacheTiming::default(), fetch);
        let impatient = tokio::time::timeout(Duration::from_millis(5), cached.get(|_| true));
        assert!(impatient.await.is_err());
        assert_eq!(*cached.get(|_| true).await.unwrap(), 7);
    }
}

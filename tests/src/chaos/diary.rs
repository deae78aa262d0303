//! What was done, when and to whom, and what went wrong by itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::clock;
use time::OffsetDateTime;

/// Whose calls a fault may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The worker of this name, one life of a process.
    Worker(String),
    /// Everyone who was calling the provider.
    Callers,
    Nobody,
}

/// A fault, from its beginning until it was healed.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: &'static str,
    pub whom: Whom,
    /// Whether contact with Postgres was lost.
    pub outage: bool,
    pub from: OffsetDateTime,
    pub to: OffsetDateTime,
}

impl Event {
    /// Whether a span of time, widened by some slack, meets it.
    pub fn meets(&self, from: OffsetDateTime, to: OffsetDateTime, slack: Duration) -> bool {
        self.from <= to + slack && from <= self.to + slack
    }
}

#[derive(Default)]
pub struct Diary {
    events: Mutex<Vec<Event>>,
    violations: Mutex<Vec<String>>,
}

impl Diary {
    /// Writes down a fault that began at `from` and is over now.
    pub fn write(&self, kind: &'static str, whom: Whom, outage: bool, from: OffsetDateTime) {
        let to = clock::now();
        lock(&self.events).push(Event {
            kind,
            whom,
            outage,
            from,
            to,
        });
    }

    pub fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }

    /// How often each kind befell.
    pub fn kinds(&self) -> BTreeMap<&'static str, usize> {
        let mut kinds = BTreeMap::new();
        for event in lock(&self.events).iter() {
            *kinds.entry(event.kind).or_default() += 1;
        }
        kinds
    }

    /// Something that must not be.
    pub fn violation(&self, says: impl Into<String>) {
        lock(&self.violations).push(says.into());
    }

    /// Something that must be.
    pub fn demand(&self, holds: bool, says: impl FnOnce() -> String) {
        if !holds {
            self.violation(says());
        }
    }

    pub fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The record of a run: every fault, when it happened and to whom, and every violation.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::clock;
use time::OffsetDateTime;

/// Whose calls a fault may have lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Those of the worker with this name. A process has a new name after each start.
    Worker(String),
    /// All calls that were in flight.
    Callers,
    /// None.
    Nobody,
}

/// A fault, from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Event {
    /// What failed, for the summary.
    pub kind: &'static str,
    /// Whose calls it may have lost.
    pub whom: Whom,
    /// Whether the connection to Postgres was lost.
    pub outage: bool,
    /// When it began.
    pub from: OffsetDateTime,
    /// When it ended.
    pub to: OffsetDateTime,
}

impl Event {
    /// Whether it overlaps with a time span that is extended by some slack on both sides.
    pub fn meets(&self, from: OffsetDateTime, to: OffsetDateTime, slack: Duration) -> bool {
        self.from <= to + slack && from <= self.to + slack
    }
}

/// All faults and all violations.
#[derive(Default)]
pub struct Diary {
    events: Mutex<Vec<Event>>,
    violations: Mutex<Vec<String>>,
}

impl Diary {
    /// Records a fault that began at `from` and ends now.
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

    /// All faults so far.
    pub fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }

    /// How often each kind of fault happened.
    pub fn kinds(&self) -> BTreeMap<&'static str, usize> {
        let mut kinds = BTreeMap::new();
        for event in lock(&self.events).iter() {
            *kinds.entry(event.kind).or_default() += 1;
        }
        kinds
    }

    /// Records a violation.
    pub fn violation(&self, says: impl Into<String>) {
        lock(&self.violations).push(says.into());
    }

    /// Records a violation unless `holds`.
    pub fn demand(&self, holds: bool, says: impl FnOnce() -> String) {
        if !holds {
            self.violation(says());
        }
    }

    /// All violations so far.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

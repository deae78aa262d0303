//! The connections of a port: how many there are, from where, and which have no request.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::telemetry::clients::{
    CONNECTIONS, CONNECTIONS_LIMIT, CONNECTIONS_REFUSED, OncePerSecond,
};
use tokio::sync::Notify;

use super::Port;
use crate::client::Network;

/// All connections of a port.
pub(super) struct Table {
    port: Port,
    counts: Mutex<Counts>,
    lines: [OncePerSecond; RefusalReason::ALL.len()],
}

/// Why a connection is refused, or closed by us.
#[derive(Clone, Copy, Debug)]
pub(super) enum RefusalReason {
    /// Its address has as many as it may have.
    Address,
    /// The port has as many as it may have, and each has a request under way.
    Total,
    /// Another connection needed its place.
    Displaced,
    /// The system has no more files.
    Files,
    /// Nothing of a request came, as of browsers that connect before they need to.
    Silent,
    /// The head of its request did not come in time.
    Head,
    /// It took nothing of its answer.
    Write,
}

impl RefusalReason {
    const ALL: [Self; 7] = [
        Self::Address,
        Self::Total,
        Self::Displaced,
        Self::Files,
        Self::Silent,
        Self::Head,
        Self::Write,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Total => "total",
            Self::Displaced => "displaced",
            Self::Files => "files",
            Self::Silent => "silent",
            Self::Head => "head",
            Self::Write => "write",
        }
    }

    /// What happened to them, and what to do about it.
    fn says(self) -> &'static str {
        match self {
            Self::Address => {
                "refused, their address has PLATEN_CONNECTIONS_PER_ADDRESS already; if it is a proxy, name it in PLATEN_TRUSTED_PROXIES"
            }
            Self::Total => "refused, the port is full and all others have a request under way",
            Self::Displaced => "closed that had no request, the port is full",
            Self::Files => {
                "not taken, the system has no more files: raise the limit of open files or lower PLATEN_CONNECTIONS"
            }
            Self::Silent => "closed, no request came",
            Self::Head => "closed, the head of a request did not come in time",
            Self::Write => "closed, nothing was taken of an answer in time",
        }
    }
}

#[derive(Default)]
struct Counts {
    open: usize,
    by_network: HashMap<Network, usize>,
    /// Connections without a request, by a number that grows: the first is without one the longest.
    waiting: BTreeMap<u64, Arc<Slot>>,
    next: u64,
}

/// A connection's place in the table. It is free again when the [`Held`] is dropped, or when it is given to another connection.
pub(super) struct Slot {
    table: Arc<Table>,
    /// `None`: a trusted proxy.
    network: Option<Network>,
    phase: AtomicU8,
    /// Guarded by the table's lock.
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Without a request, under this number.
    Waiting(u64),
    Busy,
    Displaced,
}

/// Where a connection is in its conversation. Its own task alone changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing of a request has come since the last answer.
    Idle,
    /// Nothing has come at all.
    Silent,
    /// The head of a request is coming.
    Asking,
    /// A request is read or answered.
    Answering,
    /// The whole answer is on its way into the socket.
    Sending,
}

impl Table {
    pub(super) fn new(port: Port) -> Self {
        let limit = i64::try_from(port.total).unwrap_or(i64::MAX);
        CONNECTIONS_LIMIT.with_label_values(&[port.name]).set(limit);
        // Told from the start, or the first of each would be no increase.
        for reason in RefusalReason::ALL {
            CONNECTIONS_REFUSED
                .with_label_values(&[port.name, reason.as_str()])
                .inc_by(0);
        }
        Self {
            port,
            counts: Mutex::default(),
            lines: Default::default(),
        }
    }

    pub(super) fn port(&self) -> &Port {
        &self.port
    }

    /// A place for a connection, or `None`: it is to be closed.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Held> {
        let peer = peer.to_canonical();
        let is_proxy = self.port.proxies.iter().any(|net| net.contains(&peer));
        let network = (!is_proxy).then(|| Network::of(peer));
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_network = network.and_then(|network| counts.by_network.get(&network));
        if of_network.is_some_and(|open| *open >= self.port.per_address) {
            drop(counts);
            self.refuse(RefusalReason::Address);
            return None;
        }
        if counts.open >= self.port.total && !self.displace_oldest(&mut counts) {
            drop(counts);
            self.refuse(RefusalReason::Total);
            return None;
        }
        counts.open += 1;
        if let Some(network) = network {
            *counts.by_network.entry(network).or_default() += 1;
        }
        let place = Arc::new(Slot {
            table: Arc::clone(self),
            network,
            phase: AtomicU8::new(Phase::Silent as u8),
            state: Mutex::new(State::Busy),
            notify: Notify::new(),
        });
        counts.wait(&place);
        CONNECTIONS.with_label_values(&[self.port.name]).inc();
        Some(Held(place))
    }

    /// Closes the connection that has been without a request the longest. `false`: all have one.
    fn displace_oldest(&self, counts: &mut Counts) -> bool {
        let Some((_, place)) = counts.waiting.pop_first() else {
            return false;
        };
        place.set(State::Displaced);
        counts.leave(&place);
        self.left();
        place.notify.notify_one();
        self.refuse(RefusalReason::Displaced);
        true
    }

    /// The system has no file for another connection: one without a request gives up its own.
    pub(super) fn no_files(&self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        self.displace_oldest(&mut counts);
        drop(counts);
        self.refuse(RefusalReason::Files);
    }

    /// Counts a connection that is refused or closed, and logs it, each reason at most once a second.
    pub(super) fn refuse(&self, reason: RefusalReason) {
        let (port, why) = (self.port.name, reason.as_str());
        CONNECTIONS_REFUSED.with_label_values(&[port, why]).inc();
        let line = &self.lines[reason as usize];
        line.say(move |connections| {
            let says = reason.says();
            match reason {
                RefusalReason::Address
                | RefusalReason::Total
                | RefusalReason::Displaced
                | RefusalReason::Files => {
                    tracing::warn!(
                        port,
                        reason = why,
                        connections,
                        "Connections of a second: {connections} were {says}"
                    );
                }
                RefusalReason::Head | RefusalReason::Write => {
                    tracing::info!(
                        port,
                        reason = why,
                        connections,
                        "Connections of a second: {connections} were {says}"
                    );
                }
                RefusalReason::Silent => {
                    tracing::debug!(
                        port,
                        reason = why,
                        connections,
                        "Connections of a second: {connections} were {says}"
                    );
                }
            }
        });
    }

    fn left(&self) {
        CONNECTIONS.with_label_values(&[self.port.name]).dec();
    }
}

impl Counts {
    fn wait(&mut self, place: &Arc<Slot>) {
        let number = self.next;
        self.next += 1;
        place.set(State::Waiting(number));
        self.waiting.insert(number, Arc::clone(place));
    }

    fn leave(&mut self, place: &Slot) {
        self.open = self.open.saturating_sub(1);
        let Some(network) = place.network else { return };
        if let Some(open) = self.by_network.get_mut(&network) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                self.by_network.remove(&network);
            }
        }
    }
}

impl Slot {
    /// The whole head of a request has come. `false`: the place was given to another connection.
    pub(super) fn begin(&self) -> bool {
        self.enter(Phase::Answering);
        let mut counts = self.counts();
        match self.state() {
            State::Displaced => return false,
            State::Waiting(number) => drop(counts.waiting.remove(&number)),
            State::Busy => {}
        }
        self.set(State::Busy);
        true
    }

    /// The whole answer is in the socket, and no request has come since.
    pub(super) fn set_idle(self: &Arc<Self>) {
        self.enter(Phase::Idle);
        let mut counts = self.counts();
        if self.state() == State::Busy {
            counts.wait(self);
        }
    }

    /// Ends when the place was given to another connection.
    pub(super) async fn displaced(&self) {
        self.notify.notified().await;
    }

    /// It was too slow.
    pub(super) fn too_slow(&self, reason: RefusalReason) -> io::Error {
        self.table.refuse(reason);
        io::ErrorKind::TimedOut.into()
    }

    pub(super) fn port(&self) -> &Port {
        self.table.port()
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Silent,
            2 => Phase::Asking,
            3 => Phase::Answering,
            _ => Phase::Sending,
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// How long the client may send nothing in this phase; `None`: it is waiting for us.
    pub(super) fn read_timeout(&self) -> Option<Duration> {
        match self.phase() {
            Phase::Idle => Some(self.port().idle),
            Phase::Silent | Phase::Asking => Some(self.port().head),
            Phase::Answering | Phase::Sending => None,
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        let counts = self.table.counts.lock();
        counts.unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// A place, for as long as its connection is open.
pub(super) struct Held(Arc<Slot>);

impl Deref for Held {
    type Target = Arc<Slot>;

    fn deref(&self) -> &Arc<Slot> {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let place = &self.0;
        let mut counts = place.counts();
        match place.state() {
            State::Displaced => return,
            State::Waiting(number) => drop(counts.waiting.remove(&number)),
            State::Busy => {}
        }
        counts.leave(place);
        place.table.left();
    }
}

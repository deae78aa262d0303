//! The table of a port's connections: how many there are, from which networks, and which have no request.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use telemetry::clients::{CONNECTIONS, CONNECTIONS_LIMIT, CONNECTIONS_REFUSED, OncePerSecond};
use tokio::sync::Notify;

use super::Port;
use crate::client::Network;

/// All connections of a port.
pub(super) struct Table {
    port: Port,
    /// The counts. Their mutex is the lock of the table.
    counts: Mutex<Counts>,
    /// One limiter of log lines for each reason.
    logs: [OncePerSecond; CloseReason::ALL.len()],
}

/// Why the API refuses or closes a connection.
#[derive(Clone, Copy, Debug, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(super) enum CloseReason {
    /// The client's address has reached the limit per address.
    Address,
    /// The port has reached its total limit, and every connection has a request under way.
    Total,
    /// The connection had no request, and its slot or its file descriptor was needed for another connection.
    Displaced,
    /// The system has no more file descriptors.
    Files,
    /// No byte of a request was sent. Browsers open such connections in advance.
    #[strum(serialize = "silent")]
    NoRequest,
    /// The head of a request was not sent in time.
    #[strum(serialize = "head")]
    HeadTimeout,
    /// The client read nothing of its answer in time.
    #[strum(serialize = "write")]
    WriteTimeout,
}

impl CloseReason {
    const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    fn as_str(self) -> &'static str {
        self.into()
    }

    /// What happened to the connections, and what to do about it: the end of a log line.
    fn explanation(self) -> &'static str {
        match self {
            Self::Address => {
                "refused: their address already has PLATEN_CONNECTIONS_PER_ADDRESS connections; if it is a proxy, name it in PLATEN_TRUSTED_PROXIES"
            }
            Self::Total => {
                "refused: the port is full and all other connections have a request under way"
            }
            Self::Displaced => {
                "closed: they had no request, and room was needed for another connection"
            }
            Self::Files => {
                "not accepted: the system has no more files; raise the limit of open files or lower PLATEN_CONNECTIONS"
            }
            Self::NoRequest => "closed: no request was sent in time",
            Self::HeadTimeout => "closed: the head of a request was not sent in time",
            Self::WriteTimeout => "closed: nothing of an answer was read in time",
        }
    }
}

/// The open connections, as far as the limits need to know them.
#[derive(Default)]
struct Counts {
    /// The open connections.
    open: usize,
    /// The open connections of each network. Those of trusted proxies are left out.
    by_network: HashMap<Network, usize>,
    /// Connections without a request, by a growing number. The first one has been without a request for the longest time.
    waiting: BTreeMap<u64, Arc<Slot>>,
    /// The number for the next connection that is without a request.
    next_number: u64,
}

/// A connection's slot in the table. It is freed when its [`SlotGuard`] is dropped or another connection displaces this one.
pub(super) struct Slot {
    table: Arc<Table>,
    /// The network of the client; `None` for a trusted proxy.
    network: Option<Network>,
    /// A [`Phase`] as a number.
    phase: AtomicU8,
    /// Read and written only while the table's lock is held, so that a connection is not displaced while its request begins.
    state: Mutex<State>,
    /// Told once, when another connection gets the slot.
    displaced: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The connection has no request. It has this number in `Counts::waiting`.
    Waiting(u64),
    /// The connection has a request under way.
    Busy,
    /// Another connection has the slot.
    Displaced,
}

/// What a connection is doing. Only the connection's own task changes its phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// The client has sent nothing since the last answer.
    Idle,
    /// The client has sent nothing at all.
    Silent,
    /// The client is sending the head of a request.
    ReadingHead,
    /// A request is being read or answered.
    Answering,
    /// The rest of an answer is being written to the socket.
    Sending,
}

impl Table {
    pub(super) fn new(port: Port) -> Self {
        let limit = i64::try_from(port.total).unwrap_or(i64::MAX);
        CONNECTIONS_LIMIT.with_label_values(&[port.name]).set(limit);
        // Counters are exported as 0 from the start. Otherwise Prometheus would not see the first event as an increase.
        for &reason in CloseReason::ALL {
            CONNECTIONS_REFUSED
                .with_label_values(&[port.name, reason.as_str()])
                .inc_by(0);
        }
        Self {
            port,
            counts: Mutex::default(),
            logs: Default::default(),
        }
    }

    pub(super) fn port(&self) -> &Port {
        &self.port
    }

    /// Gives a new connection a slot. Returns `None` if the connection must be closed.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<SlotGuard> {
        let peer = peer.to_canonical();
        let is_proxy = self.port.proxies.iter().any(|net| net.contains(&peer));
        let network = (!is_proxy).then(|| Network::from_address(peer));
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_network = network.and_then(|network| counts.by_network.get(&network));
        if of_network.is_some_and(|open| *open >= self.port.per_address) {
            drop(counts);
            self.count_and_log(CloseReason::Address);
            return None;
        }
        if counts.open >= self.port.total && !self.displace_longest_waiting(&mut counts) {
            drop(counts);
            self.count_and_log(CloseReason::Total);
            return None;
        }
        counts.open += 1;
        if let Some(network) = network {
            *counts.by_network.entry(network).or_default() += 1;
        }
        let slot = Arc::new(Slot {
            table: Arc::clone(self),
            network,
            phase: AtomicU8::new(Phase::Silent as u8),
            // `add_waiting` sets the real state below.
            state: Mutex::new(State::Busy),
            displaced: Notify::new(),
        });
        counts.add_waiting(&slot);
        CONNECTIONS.with_label_values(&[self.port.name]).inc();
        Some(SlotGuard(slot))
    }

    /// Closes the connection that has been without a request for the longest time. Returns `false` if every connection has a
    /// request.
    fn displace_longest_waiting(&self, counts: &mut Counts) -> bool {
        let Some((_, slot)) = counts.waiting.pop_first() else {
            return false;
        };
        slot.set(State::Displaced);
        // The connection counts as closed at once, so that the new connection fits in. Its guard later finds `Displaced` and does
        // not count it again.
        counts.remove(&slot);
        self.count_closed();
        slot.displaced.notify_one();
        self.count_and_log(CloseReason::Displaced);
        true
    }

    /// Closes the connection that has been without a request for the longest time, if there is one, because the system has no file
    /// descriptor for another connection.
    pub(super) fn free_file_descriptor(&self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        self.displace_longest_waiting(&mut counts);
        drop(counts);
        self.count_and_log(CloseReason::Files);
    }

    /// Counts one more connection that is refused or closed, and logs it. There is at most one log line a second for each reason.
    pub(super) fn count_and_log(&self, reason: CloseReason) {
        let (port, why) = (self.port.name, reason.as_str());
        CONNECTIONS_REFUSED.with_label_values(&[port, why]).inc();
        let log = &self.logs[reason as usize];
        log.log(move |connections| {
            let explanation = reason.explanation();
            match reason {
                CloseReason::Address
                | CloseReason::Total
                | CloseReason::Displaced
                | CloseReason::Files => {
                    tracing::warn!(
                        port,
                        reason = why,
                        connections,
                        "Within one second {connections} connections were {explanation}"
                    );
                }
                CloseReason::HeadTimeout | CloseReason::WriteTimeout => {
                    tracing::info!(
                        port,
                        reason = why,
                        connections,
                        "Within one second {connections} connections were {explanation}"
                    );
                }
                CloseReason::NoRequest => {
                    tracing::debug!(
                        port,
                        reason = why,
                        connections,
                        "Within one second {connections} connections were {explanation}"
                    );
                }
            }
        });
    }

    /// Lowers the metric of open connections by one.
    fn count_closed(&self) {
        CONNECTIONS.with_label_values(&[self.port.name]).dec();
    }
}

impl Counts {
    /// Adds a connection to those without a request, as the newest of them.
    fn add_waiting(&mut self, slot: &Arc<Slot>) {
        let number = self.next_number;
        self.next_number += 1;
        slot.set(State::Waiting(number));
        self.waiting.insert(number, Arc::clone(slot));
    }

    /// Counts a connection as closed, in total and for its network.
    fn remove(&mut self, slot: &Slot) {
        self.open = self.open.saturating_sub(1);
        let Some(network) = slot.network else { return };
        if let Some(open) = self.by_network.get_mut(&network) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                self.by_network.remove(&network);
            }
        }
    }
}

impl Slot {
    /// Marks the connection as busy, once the whole head of a request was read. Returns `false` if the slot was given to another
    /// connection.
    pub(super) fn begin_request(&self) -> bool {
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

    /// Marks the connection as idle, once the whole answer is in the socket and no further request was read.
    pub(super) fn set_idle(self: &Arc<Self>) {
        self.enter(Phase::Idle);
        let mut counts = self.counts();
        if self.state() == State::Busy {
            counts.add_waiting(self);
        }
    }

    /// Waits until another connection gets the slot.
    pub(super) async fn displaced(&self) {
        self.displaced.notified().await;
    }

    /// Counts the connection as closed for `reason`, which is a timeout, and returns the error that closes it.
    pub(super) fn timed_out(&self, reason: CloseReason) -> io::Error {
        self.table.count_and_log(reason);
        io::ErrorKind::TimedOut.into()
    }

    pub(super) fn port(&self) -> &Port {
        self.table.port()
    }

    pub(super) fn phase(&self) -> Phase {
        // The numbers are those of the variants, in their order.
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Silent,
            2 => Phase::ReadingHead,
            3 => Phase::Answering,
            _ => Phase::Sending,
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// How long the client may take to send something in this phase; `None` while a request is read or answered, because other
    /// limits apply then.
    pub(super) fn read_timeout(&self) -> Option<Duration> {
        match self.phase() {
            Phase::Idle => Some(self.port().idle_timeout),
            Phase::Silent | Phase::ReadingHead => Some(self.port().head_timeout),
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

/// Holds a slot for as long as its connection is open.
pub(super) struct SlotGuard(Arc<Slot>);

impl Deref for SlotGuard {
    type Target = Arc<Slot>;

    fn deref(&self) -> &Arc<Slot> {
        &self.0
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        let slot = &self.0;
        let mut counts = slot.counts();
        match slot.state() {
            State::Displaced => return,
            State::Waiting(number) => drop(counts.waiting.remove(&number)),
            State::Busy => {}
        }
        counts.remove(slot);
        slot.table.count_closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_find_each_reason_by_its_label() {
        let labels: Vec<_> = CloseReason::ALL
            .iter()
            .map(|reason| reason.as_str())
            .collect();
        let known = [
            "address",
            "total",
            "displaced",
            "files",
            "silent",
            "head",
            "write",
        ];
        assert_eq!(labels, known);
    }
}

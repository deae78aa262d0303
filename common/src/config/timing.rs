//! How often things happen, and how long they may take.

use std::time::Duration;

use domain::lanes::LaneTiming;

/// Default length of a lease.
pub(super) const DEFAULT_LEASE: Duration = Duration::from_secs(25);

/// Default time for which answers to idempotent requests are kept.
pub(super) const DEFAULT_ANSWERS_KEPT: Duration = Duration::from_hours(24);

/// Intervals and delays. Only a few can be set by variables; tests shorten the others.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How long a lease lasts without being renewed. It is renewed three times in that time.
    pub lease: Duration,
    /// How often the dispatcher fills the ready queue.
    pub dispatch_every: Duration,
    /// How often expired leases and deadlines are handled.
    pub reap_every: Duration,
    /// How often a worker checks whether the bucket is available, and whether an operator is
    /// draining this worker.
    pub probe_interval: Duration,
    /// How often the sweeper looks for objects that no row names.
    pub sweep_every: Duration,
    /// How old an object that no row names must be before the sweeper removes it: longer than any
    /// upload may take.
    pub sweep_grace: Duration,
    /// How often the ledger is anchored, in whole seconds.
    pub anchor_every: Duration,
    /// How often files that are due are deleted.
    pub retain_every: Duration,
    /// How long answers to idempotent requests are kept, at least an hour.
    pub idempotency_retention: Duration,
    /// How often answers that are older are deleted.
    pub prune_every: Duration,
    /// First and longest delay before a job is tried again.
    pub retry: (Duration, Duration),
    /// How long a provider's answer may pause while it is read.
    pub idle: Duration,
    /// First and longest delay between two polls of a provider's operation.
    pub poll: (Duration, Duration),
    /// How long lanes stay unavailable.
    pub lanes: LaneTiming,
    /// How long a worker that stops waits for its jobs. This is longer than any call of a model may
    /// take, because a job that is cut off counts as crashed.
    pub grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: DEFAULT_LEASE,
            dispatch_every: Duration::from_millis(200),
            reap_every: Duration::from_secs(1),
            probe_interval: Duration::from_secs(1),
            sweep_every: Duration::from_hours(1),
            anchor_every: Duration::from_hours(1),
            retain_every: Duration::from_secs(5),
            idempotency_retention: DEFAULT_ANSWERS_KEPT,
            prune_every: Duration::from_mins(1),
            sweep_grace: Duration::from_hours(24),
            retry: (Duration::from_secs(1), Duration::from_mins(1)),
            idle: Duration::from_secs(30),
            poll: (Duration::from_secs(1), Duration::from_secs(10)),
            lanes: LaneTiming {
                breaker_open: (Duration::from_secs(5), Duration::from_mins(1)),
                throttled: (Duration::from_millis(250), Duration::from_secs(30)),
            },
            grace: Duration::from_secs(190),
        }
    }
}

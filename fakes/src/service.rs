//! The state that every call can reach: the journal, the faults, and the signal to stop.

use super::{faults::Faults, journal::Journal};
use tokio_util::sync::CancellationToken;

/// The shared state of a running fake. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) journal: Journal,
    pub(super) faults: Faults,
    /// Canceled when the fake stops. Then calls that hang or wait end.
    pub(super) stop_signal: CancellationToken,
}

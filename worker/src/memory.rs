//! The memory that pictures may take in this worker, whatever arrives: counted in bytes, not in jobs.
//!
//! Answers are left with their providers until there is room for them, which costs a socket each. What turns out larger than was
//! thought goes beyond the count, one at a time, and for that [`BEYOND`] is set aside.

use std::time::Duration;

use common::memory::Memory;
use common::telemetry;

/// The longest wait for room. What is ahead is read, stored and rendered long before.
pub const MAX_WAIT: Duration = Duration::from_mins(15);
/// What a worker needs without any picture, and for each slot: a connection and what is known of the job.
const BASE: usize = 96 << 20;
const SLOT: usize = 64 << 10;
/// Largest answer that is held: a 4K picture, and room.
pub const OVERFLOW_BYTES: usize = 48 << 20;
/// Room for a picture whose size is not told. One that is larger goes beyond it.
pub const TYPICAL_RESPONSE_BYTES: usize = 10 << 20;

/// What is left for pictures of `ceiling` bytes that the whole worker may take, with this many slots.
pub fn within(ceiling: usize, slots: usize) -> Memory {
    let rest = ceiling.saturating_sub(BASE + OVERFLOW_BYTES + slots * SLOT);
    let (limit, used) = (&telemetry::MEMORY_LIMIT, &telemetry::MEMORY_USED);
    Memory::new(rest.max(OVERFLOW_BYTES), MAX_WAIT, limit, used)
}

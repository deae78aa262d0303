//! The memory that images may take in this worker, counted in bytes and not in jobs.
//!
//! An answer stays with its provider, unread, until a permit for its bytes is free. That costs one
//! socket for each waiting answer. An image that turns out larger than its permit exceeds the
//! count. Only one image may do so at a time, and [`OVERFLOW_BYTES`] are set aside for it.
//!
//! When many answers come at once, all of them are stored first, because they are paid for. Storing
//! waits for the disk or the network, so meanwhile the processor renders images within
//! [`RENDER_RESERVE_BYTES`], which answers cannot take. Once answers leave memory free, the original
//! that is to be rendered next is read before there is memory to render it.

use std::time::Duration;

use common::memory::Memory;
use tokio::sync::Semaphore;

/// The longest wait for a memory permit. The waiters ahead in the queue finish long before that.
pub const MAX_WAIT: Duration = Duration::from_mins(15);
/// What a worker needs without any image, in bytes. Most of it is what the allocator keeps for a
/// moment.
const BASE_BYTES: usize = 68 << 20;
/// What each running job needs besides its image, in bytes: a connection and the job's row.
const JOB_BYTES: usize = 64 << 10;
/// The largest image that is accepted from a provider, in bytes: a 4K image with a margin. As much
/// is set aside for the one image that may exceed its permit.
pub const OVERFLOW_BYTES: usize = 48 << 20;
/// The permit for an answer whose size is not known, in bytes, and the largest permit that any
/// answer gets before it is read. A larger answer uses the overflow.
pub const TYPICAL_RESPONSE_BYTES: usize = 10 << 20;

/// The memory that only rendering may use, in bytes: enough to bring one original of 2048² pixels to
/// 1K.
const RENDER_RESERVE_BYTES: usize = 28 << 20;

/// The memory for images that belongs to one turn to read ahead, in bytes: what two originals of 2048²
/// pixels take that are rendered, and the file of a third.
const BYTES_OF_A_TURN: usize = 60 << 20;

/// The memory for images in a worker that may use `ceiling` bytes in all and runs up to `jobs` jobs
/// at once, in slots and reserve together, without [`render_reserve`]. One image of the largest size
/// always fits, even if `ceiling` is too low for it.
pub fn within(ceiling: usize, jobs: usize) -> Memory {
    let others = BASE_BYTES + OVERFLOW_BYTES + RENDER_RESERVE_BYTES + jobs * JOB_BYTES;
    limited(ceiling.saturating_sub(others).max(OVERFLOW_BYTES))
}

/// The memory that only rendering may use.
pub(crate) fn render_reserve() -> Memory {
    limited(RENDER_RESERVE_BYTES)
}

/// The turns of attempts that read an original before there is memory to render it: one for each
/// [`BYTES_OF_A_TURN`] of this memory. More of them would take the memory that rendering waits for.
pub(crate) fn read_ahead_turns(memory: &Memory) -> Semaphore {
    Semaphore::new((memory.bytes() / BYTES_OF_A_TURN).max(1))
}

fn limited(bytes: usize) -> Memory {
    let (limit, used) = (&telemetry::MEMORY_LIMIT, &telemetry::MEMORY_USED);
    Memory::new(bytes, MAX_WAIT, limit, used)
}

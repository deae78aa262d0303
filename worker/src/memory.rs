//! The memory that pictures may take, whatever arrives: counted in bytes, not in jobs.
//!
//! Whoever is about to hold a picture takes room for it first, and waits where there is none: answers are left with their
//! providers meanwhile, which costs a socket each. Nobody waits for room while holding some, so everybody gets it in the end.
//! Only what turns out larger than was thought goes beyond it, one at a time, and for that [`BEYOND`] is set aside.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::telemetry;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The longest wait for room. What is ahead is read, stored and developed long before.
pub const LONGEST: Duration = Duration::from_mins(15);
/// What a worker needs without any picture, and for each slot: a connection and what is known of the job.
const BASE: usize = 96 << 20;
const SLOT: usize = 64 << 10;
/// Largest answer that is held: a 4K picture, and room.
pub const BEYOND: usize = 48 << 20;
/// Room for a picture whose size is not told. One that is larger goes beyond it.
pub const USUAL: usize = 10 << 20;
/// What room is counted in.
const KIB: usize = 1024;

/// Clones share it.
#[derive(Clone)]
pub struct Memory {
    free: Arc<Semaphore>,
    rooms: u32,
    beyond: Arc<Mutex<()>>,
}

/// Room that was taken, until it is dropped.
pub struct Room {
    permit: OwnedSemaphorePermit,
    beyond: Arc<Mutex<()>>,
    went_beyond: Option<OwnedMutexGuard<()>>,
}

/// Nobody let go of any for very long.
#[derive(Debug, thiserror::Error)]
#[error("the memory of this worker is full, and was for {} minutes", LONGEST.as_secs() / 60)]
pub struct NoRoom;

impl Memory {
    /// What is left for pictures of `ceiling` bytes that the whole worker may take, with this many slots.
    pub fn within(ceiling: usize, slots: usize) -> Self {
        let rest = ceiling.saturating_sub(BASE + BEYOND + slots * SLOT);
        Self::new(rest.max(BEYOND))
    }

    fn new(bytes: usize) -> Self {
        let rooms = u32::try_from(bytes / KIB).unwrap_or(u32::MAX);
        telemetry::MEMORY_LIMIT.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        telemetry::MEMORY_USED.add(0);
        Self {
            free: Arc::new(Semaphore::new(rooms as usize)),
            rooms,
            beyond: Arc::default(),
        }
    }

    /// Room for so many bytes, when there is some; for more than all there is, all of it.
    pub async fn take(&self, bytes: usize) -> Result<Room, NoRoom> {
        let room = Arc::clone(&self.free).acquire_many_owned(self.rooms(bytes));
        let permit = timeout(LONGEST, room).await.map_err(|_| NoRoom)?;
        Ok(self.room(permit.expect("the semaphore is never closed")))
    }

    /// The same, if there is some now.
    pub fn try_take(&self, bytes: usize) -> Option<Room> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(self.rooms(bytes));
        Some(self.room(permit.ok()?))
    }

    fn rooms(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(KIB))
            .unwrap_or(u32::MAX)
            .min(self.rooms)
    }

    fn room(&self, permit: OwnedSemaphorePermit) -> Room {
        telemetry::MEMORY_USED.add(counted(&permit));
        Room {
            permit,
            beyond: Arc::clone(&self.beyond),
            went_beyond: None,
        }
    }
}

impl Room {
    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * KIB
    }

    /// More is held than room was taken for. Waits until nobody else does so.
    pub async fn go_beyond(&mut self) -> Result<(), NoRoom> {
        if self.went_beyond.is_none() {
            let alone = Arc::clone(&self.beyond).lock_owned();
            self.went_beyond = Some(timeout(LONGEST, alone).await.map_err(|_| NoRoom)?);
        }
        Ok(())
    }

    /// Room for so many bytes of it, as one of its own; the first takes what is beyond along.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let rooms = bytes.div_ceil(KIB).min(self.permit.num_permits());
        Self {
            permit: self.permit.split(rooms).expect("there are as many"),
            beyond: Arc::clone(&self.beyond),
            went_beyond: self.went_beyond.take(),
        }
    }

    /// Lets go of all but so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let spare = self.bytes().saturating_sub(bytes);
        drop(self.split(spare / KIB * KIB));
    }
}

/// These bytes, which hold their room for as long as anybody holds them.
pub fn kept(bytes: impl AsRef<[u8]> + Send + 'static, room: impl Send + 'static) -> Bytes {
    Bytes::from_owner(Kept { bytes, _room: room })
}

impl Drop for Room {
    fn drop(&mut self) {
        telemetry::MEMORY_USED.sub(counted(&self.permit));
    }
}

/// Bytes and the room they take.
struct Kept<T, R> {
    bytes: T,
    _room: R,
}

impl<T: AsRef<[u8]>, R> AsRef<[u8]> for Kept<T, R> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

fn counted(permit: &OwnedSemaphorePermit) -> i64 {
    i64::try_from(permit.num_permits() * KIB).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn room_is_free_again_when_the_last_byte_is_dropped() {
        let memory = Memory::new(10 * KIB);
        let mut room = memory.take(8 * KIB).await.unwrap();
        assert!(memory.try_take(3 * KIB).is_none());
        let bytes = kept(vec![7; 5 * KIB], room.split(5 * KIB));
        drop(room);
        let slice = bytes.slice(..10);
        drop(bytes);
        assert!(memory.try_take(6 * KIB).is_none(), "five are kept");
        drop(slice);
        assert_eq!(memory.try_take(10 * KIB).unwrap().bytes(), 10 * KIB);
        // More than there is, alone.
        assert_eq!(memory.take(99 * KIB).await.unwrap().bytes(), 10 * KIB);
    }

    #[tokio::test]
    async fn one_at_a_time_goes_beyond_its_room() {
        let memory = Memory::new(10 * KIB);
        let mut one = memory.take(KIB).await.unwrap();
        let mut other = memory.take(KIB).await.unwrap();
        one.go_beyond().await.unwrap();
        one.go_beyond().await.unwrap();
        assert!(other.go_beyond().now_or_never().is_none());
        let bytes = kept(Vec::new(), one);
        assert!(other.go_beyond().now_or_never().is_none());
        drop(bytes);
        other.go_beyond().await.unwrap();
    }
}

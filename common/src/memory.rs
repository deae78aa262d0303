//! Memory that is counted in bytes: who is about to hold much takes room for it first, and waits where there is none.
//!
//! A worker counts its pictures so, the api its bodies, pictures and downloads. Nobody waits for room of one count while holding some of
//! it, so everybody gets it in the end. Only what turns out larger than was thought goes beyond it, one at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::IntGauge;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What room is counted in.
const KIB: usize = 1024;

/// Clones share it.
#[derive(Clone)]
pub struct Memory {
    free: Arc<Semaphore>,
    rooms: u32,
    beyond: Arc<Mutex<()>>,
    longest: Duration,
    used: IntGauge,
}

/// Room that was taken, until it is dropped.
pub struct MemoryPermit {
    permit: OwnedSemaphorePermit,
    beyond: Arc<Mutex<()>>,
    went_beyond: Option<OwnedMutexGuard<()>>,
    longest: Duration,
    used: IntGauge,
}

/// Nobody let go of any for so long.
#[derive(Debug, thiserror::Error)]
#[error("the memory that is set aside for this is full, and was for {} seconds", .0.as_secs())]
pub struct MemoryTimeout(Duration);

impl Memory {
    /// So many bytes, for which nobody waits longer than `longest`. `limit` tells how many there are, `used` how many are taken.
    pub fn new(bytes: usize, longest: Duration, limit: &IntGauge, used: &IntGauge) -> Self {
        let rooms = u32::try_from(bytes / KIB).unwrap_or(u32::MAX);
        limit.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        used.add(0);
        Self {
            free: Arc::new(Semaphore::new(rooms as usize)),
            rooms,
            beyond: Arc::default(),
            longest,
            used: used.clone(),
        }
    }

    /// All there is, in bytes.
    pub fn bytes(&self) -> usize {
        self.rooms as usize * KIB
    }

    /// Room for so many bytes, when there is some; for more than all there is, all of it.
    pub async fn acquire(&self, bytes: usize) -> Result<MemoryPermit, MemoryTimeout> {
        let room = Arc::clone(&self.free).acquire_many_owned(self.permits(bytes));
        let permit = timeout(self.longest, room).await;
        let permit = permit.map_err(|_| MemoryTimeout(self.longest))?;
        Ok(self.permit(permit.expect("the semaphore is never closed")))
    }

    /// The same, if there is some now.
    pub fn try_acquire(&self, bytes: usize) -> Option<MemoryPermit> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(self.permits(bytes));
        Some(self.permit(permit.ok()?))
    }

    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(KIB))
            .unwrap_or(u32::MAX)
            .min(self.rooms)
    }

    fn permit(&self, permit: OwnedSemaphorePermit) -> MemoryPermit {
        self.used.add(counted(&permit));
        MemoryPermit {
            permit,
            beyond: Arc::clone(&self.beyond),
            went_beyond: None,
            longest: self.longest,
            used: self.used.clone(),
        }
    }
}

impl MemoryPermit {
    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * KIB
    }

    /// More is held than room was taken for. Waits until nobody else does so.
    pub async fn acquire_overflow(&mut self) -> Result<(), MemoryTimeout> {
        if self.went_beyond.is_none() {
            let alone = Arc::clone(&self.beyond).lock_owned();
            let alone = timeout(self.longest, alone).await;
            self.went_beyond = Some(alone.map_err(|_| MemoryTimeout(self.longest))?);
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
            longest: self.longest,
            used: self.used.clone(),
        }
    }

    /// Lets go of all but so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let spare = self.bytes().saturating_sub(bytes);
        drop(self.split(spare / KIB * KIB));
    }
}

/// These bytes, which hold their room for as long as anybody holds them.
pub fn with_permit(bytes: impl AsRef<[u8]> + Send + 'static, room: impl Send + 'static) -> Bytes {
    Bytes::from_owner(PermittedBytes { bytes, _room: room })
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.used.sub(counted(&self.permit));
    }
}

/// Bytes and the room they take.
struct PermittedBytes<T, R> {
    bytes: T,
    _room: R,
}

impl<T: AsRef<[u8]>, R> AsRef<[u8]> for PermittedBytes<T, R> {
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

    fn memory(bytes: usize) -> Memory {
        let gauge = || IntGauge::new("bytes", "Bytes.").unwrap();
        Memory::new(bytes, Duration::from_mins(1), &gauge(), &gauge())
    }

    #[tokio::test]
    async fn room_is_free_again_when_the_last_byte_is_dropped() {
        let memory = memory(10 * KIB);
        let mut room = memory.acquire(8 * KIB).await.unwrap();
        assert!(memory.try_acquire(3 * KIB).is_none());
        let bytes = with_permit(vec![7; 5 * KIB], room.split(5 * KIB));
        drop(room);
        let slice = bytes.slice(..10);
        drop(bytes);
        assert!(memory.try_acquire(6 * KIB).is_none(), "five are kept");
        drop(slice);
        assert_eq!(memory.try_acquire(10 * KIB).unwrap().bytes(), 10 * KIB);
        // More than there is, alone.
        assert_eq!(memory.acquire(99 * KIB).await.unwrap().bytes(), 10 * KIB);
    }

    #[tokio::test]
    async fn one_at_a_time_goes_beyond_its_room() {
        let memory = memory(10 * KIB);
        let mut one = memory.acquire(KIB).await.unwrap();
        let mut other = memory.acquire(KIB).await.unwrap();
        one.acquire_overflow().await.unwrap();
        one.acquire_overflow().await.unwrap();
        assert!(other.acquire_overflow().now_or_never().is_none());
        let bytes = with_permit(Vec::new(), one);
        assert!(other.acquire_overflow().now_or_never().is_none());
        drop(bytes);
        other.acquire_overflow().await.unwrap();
    }
}

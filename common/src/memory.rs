//! A limit on memory, in bytes. Code that is about to use much memory first waits for a permit.
//!
//! A worker limits its images this way; the api limits bodies, images and downloads. No task waits
//! for a permit while it holds another permit of the same limit, because several such tasks could
//! block each other. So if data turns out to be larger than its permit, the task does not ask for a
//! second permit. It may exceed the limit instead, and only one task at a time may do so.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::IntGauge;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bytes of one unit of the semaphore. It does not count bytes, because the number of units has
/// only 32 bits.
const KIB: usize = 1024;

/// A limit on memory. Clones share the same limit.
#[derive(Clone)]
pub struct Memory {
    /// Memory that is not reserved, in KiB.
    free: Arc<Semaphore>,
    /// The whole limit, in KiB.
    total: u32,
    /// Held by the one permit whose task may exceed the limit ([`MemoryPermit::acquire_overflow`]).
    overflow: Arc<Mutex<()>>,
    /// How long a task waits for a permit, or for the permission to exceed it.
    max_wait: Duration,
    /// Shows the reserved bytes.
    used: IntGauge,
}

/// A part of the memory, reserved until the permit is dropped.
pub struct MemoryPermit {
    permit: OwnedSemaphorePermit,
    /// The same lock as in [`Memory`].
    overflow: Arc<Mutex<()>>,
    /// The lock, while this permit allows its task to exceed the limit.
    overflow_guard: Option<OwnedMutexGuard<()>>,
    max_wait: Duration,
    used: IntGauge,
}

/// No permit became free within the time.
#[derive(Debug, thiserror::Error)]
#[error("the memory that is set aside for this has been full for {} seconds", .0.as_secs())]
pub struct MemoryTimeout(Duration);

impl Memory {
    /// A limit of `bytes`, rounded down to KiB. A task waits for a permit for at most `max_wait`.
    /// The limit in bytes is added to the gauge `limit`; the gauge `used` shows how many bytes are reserved.
    pub fn new(bytes: usize, max_wait: Duration, limit: &IntGauge, used: &IntGauge) -> Self {
        let total = u32::try_from(bytes / KIB).unwrap_or(u32::MAX);
        limit.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        // The gauge is exported from the start, not only after the first permit.
        used.add(0);
        Self {
            free: Arc::new(Semaphore::new(total as usize)),
            total,
            overflow: Arc::default(),
            max_wait,
            used: used.clone(),
        }
    }

    /// The whole limit in bytes.
    pub fn bytes(&self) -> usize {
        self.total as usize * KIB
    }

    /// Waits for a permit of `bytes`, rounded up to KiB. A request for more than the whole limit
    /// gets a permit for the whole limit; no other task then holds one.
    ///
    /// # Errors
    /// Returns an error if no permit became free within `max_wait`.
    ///
    /// # Panics
    /// Never panics, because the semaphore is never closed.
    pub async fn acquire(&self, bytes: usize) -> Result<MemoryPermit, MemoryTimeout> {
        let permit = Arc::clone(&self.free).acquire_many_owned(self.units(bytes));
        let permit = timeout(self.max_wait, permit).await;
        let permit = permit.map_err(|_| MemoryTimeout(self.max_wait))?;
        Ok(self.permit(permit.expect("the semaphore is never closed")))
    }

    /// Does the same as [`Self::acquire`], without waiting. Returns `None` if there is not enough
    /// memory now.
    pub fn try_acquire(&self, bytes: usize) -> Option<MemoryPermit> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(self.units(bytes));
        Some(self.permit(permit.ok()?))
    }

    /// The units of a permit for so many bytes, at most all of them.
    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(KIB))
            .unwrap_or(u32::MAX)
            .min(self.total)
    }

    /// Makes our permit from one of the semaphore, and counts it in the gauge.
    fn permit(&self, permit: OwnedSemaphorePermit) -> MemoryPermit {
        self.used.add(permit_bytes(&permit));
        MemoryPermit {
            permit,
            overflow: Arc::clone(&self.overflow),
            overflow_guard: None,
            max_wait: self.max_wait,
            used: self.used.clone(),
        }
    }
}

impl MemoryPermit {
    /// Size of the permit, in bytes.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * KIB
    }

    /// Allows the task to use more memory than the permit's size, until the permit is dropped.
    /// Waits until no other permit allows this. A second call does nothing.
    ///
    /// # Errors
    /// Returns an error if another permit had this permission for all of `max_wait`.
    pub async fn acquire_overflow(&mut self) -> Result<(), MemoryTimeout> {
        if self.overflow_guard.is_none() {
            let guard = Arc::clone(&self.overflow).lock_owned();
            let guard = timeout(self.max_wait, guard).await;
            self.overflow_guard = Some(guard.map_err(|_| MemoryTimeout(self.max_wait))?);
        }
        Ok(())
    }

    /// Splits off a permit of `bytes`, rounded up to KiB, or of all that is left if that is less. A
    /// permission of [`Self::acquire_overflow`] moves to the new permit, because the caller may
    /// drop the rest while the bytes of the new permit are still in memory.
    ///
    /// # Panics
    /// Never panics, because no more is split off than there is.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let units = bytes.div_ceil(KIB).min(self.permit.num_permits());
        Self {
            permit: self.permit.split(units).expect("there are as many"),
            overflow: Arc::clone(&self.overflow),
            overflow_guard: self.overflow_guard.take(),
            max_wait: self.max_wait,
            used: self.used.clone(),
        }
    }

    /// Gives back the memory above `bytes`, except a part of a KiB, and the permission of
    /// [`Self::acquire_overflow`].
    pub fn shrink(&mut self, bytes: usize) {
        let spare = self.bytes().saturating_sub(bytes);
        // The permission moves to the permit that is split off, and is dropped with it.
        drop(self.split(spare / KIB * KIB));
    }
}

/// Bytes that keep their permit until the last clone or slice of them is dropped.
pub fn with_permit(bytes: impl AsRef<[u8]> + Send + 'static, permit: impl Send + 'static) -> Bytes {
    Bytes::from_owner(PermittedBytes {
        bytes,
        _permit: permit,
    })
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.used.sub(permit_bytes(&self.permit));
    }
}

/// Bytes and the permit for their memory.
struct PermittedBytes<T, P> {
    bytes: T,
    _permit: P,
}

impl<T: AsRef<[u8]>, P> AsRef<[u8]> for PermittedBytes<T, P> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// The size of a permit, as the gauge counts it.
fn permit_bytes(permit: &OwnedSemaphorePermit) -> i64 {
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
    async fn memory_is_free_again_when_the_last_byte_is_dropped() {
        let memory = memory(10 * KIB);
        let mut permit = memory.acquire(8 * KIB).await.unwrap();
        assert!(memory.try_acquire(3 * KIB).is_none());
        let bytes = with_permit(vec![7; 5 * KIB], permit.split(5 * KIB));
        drop(permit);
        let slice = bytes.slice(..10);
        drop(bytes);
        assert!(memory.try_acquire(6 * KIB).is_none(), "five are kept");
        drop(slice);
        assert_eq!(memory.try_acquire(10 * KIB).unwrap().bytes(), 10 * KIB);
        // More than the limit is granted as the whole limit.
        assert_eq!(memory.acquire(99 * KIB).await.unwrap().bytes(), 10 * KIB);
    }

    #[tokio::test]
    async fn only_one_permit_at_a_time_may_overflow() {
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

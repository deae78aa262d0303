//! The part of the spool that is on disk, for results that find no memory.
//!
//! Each result waits in a file without a name. The file ends with the process, so it leaves nothing
//! behind, and no other process can open it (`docs/decisions/0041`).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;

use super::KIB;

/// The disk space in which results may wait, in the folder for temporary files (`TMPDIR`).
pub(super) struct Disk {
    free_kib: Semaphore,
    /// Held while a result from the disk is in memory again, so that only one is at a time.
    in_memory: Mutex<()>,
}

/// A result in a file, with its share of the space.
pub(super) struct SpooledFile<'a> {
    file: Arc<File>,
    /// In bytes.
    length: usize,
    disk: &'a Disk,
    _permit: SemaphorePermit<'a>,
}

impl Disk {
    /// Creates the space, of at most `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            free_kib: Semaphore::new((capacity / KIB).min(Semaphore::MAX_PERMITS)),
            in_memory: Mutex::default(),
        }
    }

    /// Moves a result into a file, and drops it from memory. Returns `None` if there is not enough
    /// disk space, or if the file cannot be written.
    pub(super) async fn store(&self, bytes: Bytes) -> Option<SpooledFile<'_>> {
        let length = bytes.len();
        let needed = u32::try_from(length.div_ceil(KIB)).ok()?;
        let permit = self.free_kib.try_acquire_many(needed).ok()?;
        let file = blocking(move || {
            let mut file = tempfile::tempfile()?;
            file.write_all(&bytes)?;
            Ok(file)
        });
        match file.await {
            Ok(file) => Some(SpooledFile {
                file: Arc::new(file),
                length,
                disk: self,
                _permit: permit,
            }),
            Err(error) => {
                tracing::error!(%error, "The spool cannot write to its disk");
                None
            }
        }
    }
}

impl SpooledFile<'_> {
    /// Reads the result. No other result is read until the guard is dropped.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read.
    pub(super) async fn read(&self) -> io::Result<(Bytes, MutexGuard<'_, ()>)> {
        let guard = self.disk.in_memory.lock().await;
        let (file, length) = (Arc::clone(&self.file), self.length);
        let read = blocking(move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        });
        Ok((read.await?.into(), guard))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

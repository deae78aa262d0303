//! Reads and writes whole files. Large ones bypass the page cache of the kernel.
//!
//! An original is written once, compared with what was sent, and seldom read again. Through the page
//! cache its bytes would be copied into memory that the kernel has to find first, and would push out
//! what others read more often. With `O_DIRECT` (open(2)) the bytes go from our buffer to the disk,
//! and what is read back comes from the disk.
//!
//! With `O_DIRECT` the buffer, the position and the length must be multiples of the disk's block. So
//! the bytes pass through an aligned buffer, and the rest after the last whole block is written as
//! usual. Where the file system refuses this, the file is written or read as usual.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Files with fewer bytes pass the page cache.
const MIN_BYTES: usize = 2 << 20;
/// A multiple of the blocks of all disks.
const BLOCK: usize = 4096;
/// How many bytes are written or read at once: whole blocks. Each time costs a wait for the disk.
const PIECE: usize = 1 << 20;

/// Writes a whole new file.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub(super) fn write(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let mut written = 0;
    if bytes.len() >= MIN_BYTES && set_direct(file, true).is_ok() {
        let blocks = &bytes[..bytes.len() / BLOCK * BLOCK];
        let mut buffer = AlignedBuffer::new(PIECE);
        for piece in blocks.chunks(PIECE) {
            let buffer = &mut buffer.bytes()[..piece.len()];
            buffer.copy_from_slice(piece);
            match file.write_all(buffer) {
                Err(error) if is_refused(&error) => break,
                result => result?,
            }
        }
        set_direct(file, false)?;
        written = usize::try_from(file.stream_position()?).unwrap_or(usize::MAX);
    }
    file.write_all(bytes.get(written..).unwrap_or_default())
}

/// Whether a file that was just opened has exactly these bytes. Comparing bytes costs a fraction of
/// hashing them.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(super) fn holds(file: File, bytes: &[u8]) -> io::Result<bool> {
    let size = file.metadata()?.len();
    if size != bytes.len() as u64 {
        return Ok(false);
    }
    let mut pieces = Pieces::new(file, size);
    let mut rest = bytes;
    loop {
        let piece = pieces.next()?;
        if piece.is_empty() {
            return Ok(rest.is_empty());
        }
        match rest.strip_prefix(piece) {
            Some(remaining) => rest = remaining,
            None => return Ok(false),
        }
    }
}

/// Reads a file piece by piece.
pub(super) struct Pieces {
    file: File,
    buffer: AlignedBuffer,
    is_direct: bool,
}

impl Pieces {
    /// Reads a file that was just opened and has `size` bytes.
    pub(super) fn new(file: File, size: u64) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Self {
            is_direct: size >= MIN_BYTES && set_direct(&file, true).is_ok(),
            // More than the file has, so that a single read finds its end.
            buffer: AlignedBuffer::new(size.saturating_add(1).min(PIECE)),
            file,
        }
    }

    /// The next piece, which is empty at the end of the file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub(super) fn next(&mut self) -> io::Result<&[u8]> {
        let read = loop {
            match self.file.read(self.buffer.bytes()) {
                Ok(read) => break read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if self.is_direct && is_refused(&error) => {
                    set_direct(&self.file, false)?;
                    self.is_direct = false;
                }
                Err(error) => return Err(error),
            }
        };
        Ok(&self.buffer.bytes()[..read])
    }
}

/// Says whether the file bypasses the page cache from now on.
fn set_direct(file: &File, is_direct: bool) -> io::Result<()> {
    let mut flags = OFlag::empty();
    flags.set(OFlag::O_DIRECT, is_direct);
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// Whether the file system refuses to bypass the page cache: it cannot, or it wants larger blocks,
/// or the position is no longer a multiple of a block.
fn is_refused(error: &io::Error) -> bool {
    error.kind() == ErrorKind::InvalidInput
}

/// A buffer that begins at a multiple of [`BLOCK`] and consists of whole blocks.
struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    size: usize,
}

impl AlignedBuffer {
    /// A buffer of at least this many bytes.
    fn new(min_size: usize) -> Self {
        let size = min_size.next_multiple_of(BLOCK);
        // Not `vec![0; …]`: for zeroed memory the allocator gives pages back to the kernel and takes
        // new ones.
        let mut memory: Vec<u8> = Vec::with_capacity(size + BLOCK);
        let start = memory.as_ptr().align_offset(BLOCK);
        memory.resize(size + BLOCK, 0);
        Self {
            memory,
            start,
            size,
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.size]
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_has_the_bytes_that_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for size in [
            0,
            1,
            MIN_BYTES - 1,
            MIN_BYTES,
            MIN_BYTES + 1,
            MIN_BYTES + BLOCK - 1,
            3 * PIECE + 5 * BLOCK + 123,
        ] {
            let mut bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            write(&mut File::create(&path).unwrap(), &bytes).unwrap();
            assert!(fs::read(&path).unwrap() == bytes, "{size} bytes");
            assert!(holds(File::open(&path).unwrap(), &bytes).unwrap());
            for at in [0, size / 2, size.saturating_sub(1)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1;
                    assert!(!holds(File::open(&path).unwrap(), &bytes).unwrap());
                    bytes[at] ^= 1;
                }
            }
            bytes.push(0);
            assert!(!holds(File::open(&path).unwrap(), &bytes).unwrap());
        }
    }
}

//! Reads the bits of entropy-coded data up to the next marker.

use super::{DAMAGED, Reason};

/// Reads bits, from the highest to the lowest of each byte. In entropy-coded data a zero byte follows each byte 0xFF.
/// If any other byte follows 0xFF, the two bytes are a marker, and the data ends before them (T.81, B.1.1.5 and
/// F.2.2.5).
pub(super) struct BitReader<'a> {
    data: &'a [u8],
    /// The offset of the next byte that is not in `next`.
    at: usize,
    /// The next bits. The first one is the highest.
    next: u64,
    /// How many bits `next` has.
    count: u32,
    /// How many zero bits were added after the end of the data.
    added: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            at: 0,
            next: 0,
            count: 0,
            added: 0,
        }
    }

    /// Makes at least 32 bits available. After the end of the data they are zeros.
    #[inline(always)]
    pub(super) fn fill(&mut self) {
        if self.count < 32 {
            self.refill();
        }
    }

    /// Adds as many whole bytes to `next` as it has room for.
    #[inline(always)]
    fn refill(&mut self) {
        if let Some(word) = self.data.get(self.at..).and_then(|rest| rest.first_chunk()) {
            let word = u64::from_be_bytes(*word);
            let inverted = !word;
            // Not zero if a byte of the word is 0xFF. This is the usual test for a zero byte, applied to the inverted
            // word.
            let has_ff =
                inverted.wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080;
            if has_ff == 0 {
                // This also sets bits of the next byte, beyond `count`. When that byte is read, the same bits are set
                // again.
                self.next |= word >> self.count;
                let bytes = (63 - self.count) / 8;
                self.at += bytes as usize;
                self.count += bytes * 8;
                return;
            }
        }
        self.refill_slowly();
    }

    /// Reads byte by byte, because one of the next bytes is 0xFF, or the data ends soon.
    #[cold]
    #[inline(never)]
    fn refill_slowly(&mut self) {
        while self.count <= 56 {
            let byte = self.next_byte().unwrap_or_else(|| {
                self.added = self.added.saturating_add(8);
                0
            });
            self.next |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// The next byte. Returns `None` at the end of the data, which may be a marker, and stays there. Several bytes 0xFF
    /// before a zero byte count as one.
    fn next_byte(&mut self) -> Option<u8> {
        let byte = *self.data.get(self.at)?;
        if byte != 0xFF {
            self.at += 1;
            return Some(byte);
        }
        let run = self.data[self.at..]
            .iter()
            .take_while(|&&byte| byte == 0xFF)
            .count();
        (self.data.get(self.at + run) == Some(&0)).then(|| {
            self.at += run + 1;
            0xFF
        })
    }

    /// The next `count` bits, at most 16, without skipping them. Call [`fill`](Self::fill) before.
    #[inline(always)]
    pub(super) fn peek(&self, count: u32) -> usize {
        (self.next >> (64 - count)) as usize
    }

    #[inline(always)]
    pub(super) fn skip(&mut self, count: u32) {
        self.next <<= count;
        self.count -= count;
    }

    /// Takes the next `count` bits, at most 16, as a number. Call [`fill`](Self::fill) before.
    #[inline(always)]
    pub(super) fn take(&mut self, count: u32) -> i32 {
        // In two steps, because shifting by 64 at once (for no bits) would overflow.
        let value = (self.next >> 1 >> (63 - count)) as i32;
        self.skip(count);
        value
    }

    /// Takes a signed number of `count` bits (T.81, F.2.2.1, EXTEND). A value in the lower half stands for a
    /// negative number.
    #[inline(always)]
    pub(super) fn take_signed(&mut self, count: u32) -> i32 {
        let value = self.take(count);
        let lower = value < (1 << count >> 1);
        if lower {
            value - (1 << count) + 1
        } else {
            value
        }
    }

    /// Whether more bits were read than the data has.
    #[inline(always)]
    pub(super) fn is_past_end(&self) -> bool {
        self.added > self.count
    }

    /// Checks the end of the data, and returns the offset of the next marker. Some cameras add bytes of zeros or ones.
    /// If any other byte is left, the data is damaged.
    pub(super) fn finish(mut self) -> Result<usize, Reason> {
        if self.is_past_end() {
            return Err(DAMAGED);
        }
        let bytes = (self.count - self.added) / 8;
        self.skip((self.count - self.added) % 8);
        for _ in 0..bytes {
            if !matches!(self.take(8), 0 | 0xFF) {
                return Err(DAMAGED);
            }
        }
        while let Some(byte) = self.next_byte() {
            if !matches!(byte, 0 | 0xFF) {
                return Err(DAMAGED);
            }
        }
        Ok(self.at)
    }
}

/// Moves `at` behind the next marker, past all that is none, and returns the second byte of the marker. Returns `None` if
/// the data has no further marker.
pub(super) fn next_marker(data: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        *at += data.get(*at..)?.iter().position(|&byte| byte == 0xFF)?;
        *at += data[*at..].iter().take_while(|&&byte| byte == 0xFF).count();
        let marker = *data.get(*at)?;
        *at += 1;
        if marker != 0 {
            return Some(marker);
        }
    }
}

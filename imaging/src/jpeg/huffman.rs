//! Decodes Huffman codes of at most sixteen bits (T.81, annex C and F.2.2.3).

use super::bits::BitReader;
use super::{DAMAGED, Reason};

/// Codes of up to this many bits are decoded by one table lookup.
const LOOKUP_BITS: u32 = 9;

/// A Huffman table, prepared for decoding.
pub(super) struct HuffmanTable {
    /// For each value of the next [`LOOKUP_BITS`] bits: the length of the code that they begin with, and the code's
    /// symbol. The length is 0 if the code is longer than that.
    symbol_lookup: [(u8, u8); 1 << LOOKUP_BITS],
    /// For each value of the next [`LOOKUP_BITS`] bits, if they hold a code and also its coefficient: the number of
    /// bits of both, the run of zeros before the coefficient, and the coefficient's value. The number of bits is 0 if
    /// these bits do not hold both.
    coefficient_lookup: [(u8, u8, i16); 1 << LOOKUP_BITS],
    /// For each length: the first value of sixteen bits that is above all codes of this length.
    code_limits: [u32; 17],
    /// For each length: the number that is added to a code of this length to get the index of its symbol.
    symbol_offsets: [i32; 17],
    symbols: [u8; 256],
}

impl HuffmanTable {
    /// Builds the tables. `code_counts` has the number of codes of each length, from 1 to 16 bits. Returns `None` if
    /// that many codes are not possible.
    pub(super) fn new(code_counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            symbol_lookup: [(0, 0); 1 << LOOKUP_BITS],
            coefficient_lookup: [(0, 0, 0); 1 << LOOKUP_BITS],
            code_limits: [0; 17],
            symbol_offsets: [0; 17],
            symbols: [0; 256],
        };
        table
            .symbols
            .get_mut(..symbols.len())?
            .copy_from_slice(symbols);
        // The next code, and the index of its symbol.
        let (mut code, mut at) = (0_u32, 0_usize);
        for length in 1..=16_u32 {
            let count = u32::from(code_counts[length as usize - 1]);
            table.symbol_offsets[length as usize] =
                i32::try_from(at).ok()? - i32::try_from(code).ok()?;
            if code + count > 1 << length {
                return None;
            }
            if length <= LOOKUP_BITS {
                let spare = LOOKUP_BITS - length;
                for number in 0..count {
                    let first = ((code + number) << spare) as usize;
                    let symbol = symbols[at + number as usize];
                    table.symbol_lookup[first..first + (1 << spare)]
                        .fill((length.to_le_bytes()[0], symbol));
                }
            }
            code += count;
            at += count as usize;
            table.code_limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        table.fill_coefficient_lookup();
        Some(table)
    }

    /// Fills [`Self::coefficient_lookup`], by the codes in [`Self::symbol_lookup`].
    fn fill_coefficient_lookup(&mut self) {
        for (at, &(length, symbol)) in self.symbol_lookup.iter().enumerate() {
            let (zeros, bits) = (symbol >> 4, u32::from(symbol & 15));
            let total = u32::from(length) + bits;
            if length == 0 || bits == 0 || total > LOOKUP_BITS {
                continue;
            }
            let value =
                i16::try_from(at >> (LOOKUP_BITS - total) & ((1 << bits) - 1)).expect("few bits");
            // As in `BitReader::take_signed`.
            let lower = value < 1 << (bits - 1);
            let value = if lower {
                value - (1 << bits) + 1
            } else {
                value
            };
            self.coefficient_lookup[at] = (total.to_le_bytes()[0], zeros, value);
        }
    }

    /// Takes a code and its coefficient by one lookup: the run of zeros before the coefficient, and its value. Returns
    /// `None` and takes nothing if they have too many bits for the lookup. Call [`fill`](BitReader::fill) before.
    #[inline(always)]
    pub(super) fn short_coefficient(&self, bits: &mut BitReader<'_>) -> Option<(usize, i16)> {
        let (total, zeros, value) = self.coefficient_lookup[bits.peek(LOOKUP_BITS)];
        (total != 0).then(|| {
            bits.skip(u32::from(total));
            (usize::from(zeros), value)
        })
    }

    /// Takes the next code and returns its symbol. Call [`fill`](BitReader::fill) before.
    #[inline(always)]
    pub(super) fn symbol(&self, bits: &mut BitReader<'_>) -> Result<u8, Reason> {
        let (length, symbol) = self.symbol_lookup[bits.peek(LOOKUP_BITS)];
        if length != 0 {
            bits.skip(u32::from(length));
            return Ok(symbol);
        }
        self.symbol_of_long_code(bits)
    }

    /// Takes a code that is too long for the lookup, and returns its symbol.
    #[cold]
    #[inline(never)]
    fn symbol_of_long_code(&self, bits: &mut BitReader<'_>) -> Result<u8, Reason> {
        let next = bits.peek(16);
        let length = (LOOKUP_BITS + 1..=16)
            .find(|length| next < self.code_limits[*length as usize] as usize);
        let length = length.ok_or(DAMAGED)?;
        let code = bits.take(length);
        let at =
            usize::try_from(code + self.symbol_offsets[length as usize]).map_err(|_| DAMAGED)?;
        self.symbols.get(at).copied().ok_or(DAMAGED)
    }
}

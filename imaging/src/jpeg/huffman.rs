//! Huffman codes of at most sixteen bits (T.81, annex C and F.2.2.3).

use super::bits::Bits;
use super::{DAMAGED, Reason};

/// Codes of up to this many bits are found by one table lookup.
const QUICK_BITS: u32 = 9;

/// A Huffman table, prepared for decoding.
pub(super) struct Table {
    /// For each value of the next bits: the length of the code at their start and its symbol. Length 0 if the code is longer.
    quick: [(u8, u8); 1 << QUICK_BITS],
    /// The same for a code whose coefficient is also within these bits: the total number of bits, the run of zeros before the
    /// coefficient, its value. 0 bits if it is not.
    quick_value: [(u8, u8, i16); 1 << QUICK_BITS],
    /// The end of the codes of each length, as the highest of sixteen bits.
    ends: [u32; 17],
    /// Added to a code of each length, this gives the index of its symbol.
    offsets: [i32; 17],
    symbols: [u8; 256],
}

impl Table {
    /// `lengths` has the number of codes of each length, 1 to 16. `None` if that many codes are not possible.
    pub(super) fn new(lengths: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            quick: [(0, 0); 1 << QUICK_BITS],
            quick_value: [(0, 0, 0); 1 << QUICK_BITS],
            ends: [0; 17],
            offsets: [0; 17],
            symbols: [0; 256],
        };
        table
            .symbols
            .get_mut(..symbols.len())?
            .copy_from_slice(symbols);
        let (mut code, mut at) = (0_u32, 0_usize);
        for length in 1..=16_u32 {
            let count = u32::from(lengths[length as usize - 1]);
            table.offsets[length as usize] = i32::try_from(at).ok()? - i32::try_from(code).ok()?;
            if code + count > 1 << length {
                return None;
            }
            if length <= QUICK_BITS {
                let spare = QUICK_BITS - length;
                for number in 0..count {
                    let first = ((code + number) << spare) as usize;
                    let symbol = symbols[at + number as usize];
                    table.quick[first..first + (1 << spare)]
                        .fill((length.to_le_bytes()[0], symbol));
                }
            }
            code += count;
            at += count as usize;
            table.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        table.fill_quick_values();
        Some(table)
    }

    fn fill_quick_values(&mut self) {
        for (at, &(length, symbol)) in self.quick.iter().enumerate() {
            let (zeros, bits) = (symbol >> 4, u32::from(symbol & 15));
            let all = u32::from(length) + bits;
            if length == 0 || bits == 0 || all > QUICK_BITS {
                continue;
            }
            let value =
                i16::try_from(at >> (QUICK_BITS - all) & ((1 << bits) - 1)).expect("few bits");
            let lower = value < 1 << (bits - 1);
            let value = if lower {
                value - (1 << bits) + 1
            } else {
                value
            };
            self.quick_value[at] = (all.to_le_bytes()[0], zeros, value);
        }
    }

    /// A coefficient by one lookup: the run of zeros before it, and its value. `None` if it needs more bits.
    #[inline(always)]
    pub(super) fn value(&self, bits: &mut Bits<'_>) -> Option<(usize, i16)> {
        let (all, zeros, value) = self.quick_value[bits.peek(QUICK_BITS)];
        (all != 0).then(|| {
            bits.skip(u32::from(all));
            (usize::from(zeros), value)
        })
    }

    /// The next symbol. Call [`fill`](Bits::fill) before.
    #[inline(always)]
    pub(super) fn symbol(&self, bits: &mut Bits<'_>) -> Result<u8, Reason> {
        let (length, symbol) = self.quick[bits.peek(QUICK_BITS)];
        if length != 0 {
            bits.skip(u32::from(length));
            return Ok(symbol);
        }
        self.long_symbol(bits)
    }

    #[cold]
    #[inline(never)]
    fn long_symbol(&self, bits: &mut Bits<'_>) -> Result<u8, Reason> {
        let next = bits.peek(16);
        let length =
            (QUICK_BITS + 1..=16).find(|length| next < self.ends[*length as usize] as usize);
        let length = length.ok_or(DAMAGED)?;
        let code = bits.take(length);
        let at = usize::try_from(code + self.offsets[length as usize]).map_err(|_| DAMAGED)?;
        self.symbols.get(at).copied().ok_or(DAMAGED)
    }
}

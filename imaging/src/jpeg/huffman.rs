//! Huffman codes of at most sixteen bits.

use super::bits::Bits;
use super::{DAMAGED, Reason};

/// Codes of up to so many bits are looked up at once.
const QUICK: u32 = 9;

/// A code, ready to be read.
pub(super) struct Table {
    /// For the next bits, whatever they are: the length of the code they begin with, and what it stands for; 0 if it is longer.
    quick: [(u8, u8); 1 << QUICK],
    /// The same, if the code stands for a coefficient that is also within those bits: all bits of it, how many are
    /// skipped before it, its value.
    quick_value: [(u8, u8, i16); 1 << QUICK],
    /// Where codes of each length end, as the top of sixteen bits.
    ends: [u32; 17],
    /// What is added to a code of each length to find its symbol.
    offsets: [i32; 17],
    symbols: [u8; 256],
}

impl Table {
    /// `lengths` says how many codes there are of each length. `None` if there cannot be so many.
    pub(super) fn new(lengths: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            quick: [(0, 0); 1 << QUICK],
            quick_value: [(0, 0, 0); 1 << QUICK],
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
            if length <= QUICK {
                let spare = QUICK - length;
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
        table.look_values_up();
        Some(table)
    }

    fn look_values_up(&mut self) {
        for (at, &(length, symbol)) in self.quick.iter().enumerate() {
            let (zeros, bits) = (symbol >> 4, u32::from(symbol & 15));
            let all = u32::from(length) + bits;
            if length == 0 || bits == 0 || all > QUICK {
                continue;
            }
            let value = i16::try_from(at >> (QUICK - all) & ((1 << bits) - 1)).expect("few bits");
            let lower = value < 1 << (bits - 1);
            let value = if lower {
                value - (1 << bits) + 1
            } else {
                value
            };
            self.quick_value[at] = (all.to_le_bytes()[0], zeros, value);
        }
    }

    /// A coefficient that is quickly read: zeros before it, its value.
    #[inline(always)]
    pub(super) fn value(&self, bits: &mut Bits<'_>) -> Option<(usize, i16)> {
        let (all, zeros, value) = self.quick_value[bits.peek(QUICK)];
        (all != 0).then(|| {
            bits.skip(u32::from(all));
            (usize::from(zeros), value)
        })
    }

    /// The next symbol; [`fill`](Bits::fill) has made sure of its bits.
    #[inline(always)]
    pub(super) fn symbol(&self, bits: &mut Bits<'_>) -> Result<u8, Reason> {
        let (length, symbol) = self.quick[bits.peek(QUICK)];
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
        let length = (QUICK + 1..=16).find(|length| next < self.ends[*length as usize] as usize);
        let length = length.ok_or(DAMAGED)?;
        let code = bits.take(length);
        let at = usize::try_from(code + self.offsets[length as usize]).map_err(|_| DAMAGED)?;
        self.symbols.get(at).copied().ok_or(DAMAGED)
    }
}

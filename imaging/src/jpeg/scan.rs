//! Reads scans, which are Huffman codes that stand for coefficients (T.81, annex F for sequential and annex G for
//! progressive images).

use std::sync::Arc;

use super::bits::{BitReader, next_marker};
use super::frame::{Frame, Plane};
use super::huffman::HuffmanTable;
use super::idct::{BLOCK_SIDE, Block};
use super::{DAMAGED, Reason, Tables};

const PIXELS_MISSING: Reason = "some of its pixels are missing";
/// The most blocks that an MCU of several channels may have (T.81, B.2.3).
const MAX_BLOCKS_PER_MCU: usize = 10;

/// The position in the block of each stored coefficient, in the order of storage (T.81, figure A.6).
pub(super) const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The header of a scan (T.81, B.2.3), with the tables that it uses.
pub(super) struct Scan {
    parts: Vec<ScanChannel>,
    kind: Kind,
    /// The first and the last coefficient of the scan (T.81: Ss, Se).
    band: (usize, usize),
    /// The number of low bits that this scan leaves to later scans (T.81: Al). Each coefficient is shifted left by this
    /// number.
    low_bits: u32,
    /// The number of MCUs between two restart markers. 0 means that there are none. In a scan of one channel each block
    /// is an MCU.
    restart_interval: usize,
}

/// A channel of a scan, and its Huffman tables.
struct ScanChannel {
    /// The index in [`Frame::channels`].
    channel: usize,
    dc: Option<Arc<HuffmanTable>>,
    ac: Option<Arc<HuffmanTable>>,
}

/// What a scan holds.
#[derive(Clone, Copy)]
enum Kind {
    /// Whole blocks.
    Sequential,
    /// The first bits of the DC coefficient of each block (T.81, G.1.2.1).
    DcFirst,
    /// One more bit of the DC coefficients.
    DcRefine,
    /// The first bits of a band of AC coefficients (T.81, G.1.2.2).
    AcFirst,
    /// One more bit of a band of AC coefficients (T.81, G.1.2.3).
    AcRefine,
}

/// The state that is carried from block to block. A restart marker resets it (T.81, F.1.1.5.1 and G.1.2.2).
#[derive(Default)]
struct BlockState {
    /// The DC coefficient of the previous block, for each channel.
    dc: [i32; 4],
    /// How many further blocks have no new coefficient in this band (T.81: EOBRUN).
    empty_blocks: u32,
}

impl Scan {
    /// Reads the header of a scan, and marks the bits in `frame` that the scan holds as read.
    pub(super) fn new(data: &[u8], frame: &mut Frame, tables: &Tables) -> Result<Self, Reason> {
        let (count, rest) = data.split_first().ok_or(DAMAGED)?;
        let (parts, rest) = rest
            .split_at_checked(usize::from(*count) * 2)
            .ok_or(DAMAGED)?;
        let &[first, last, bits] = rest.first_chunk().ok_or(DAMAGED)?;
        let (first, last) = if frame.progressive {
            (usize::from(first), usize::from(last))
        } else {
            (0, 63)
        };
        let (high, low) = if frame.progressive {
            (bits >> 4, bits & 15)
        } else {
            (0, 0)
        };
        let kind = match (frame.progressive, first, high) {
            (false, ..) => Kind::Sequential,
            (true, 0, 0) => Kind::DcFirst,
            (true, 0, _) => Kind::DcRefine,
            (true, _, 0) => Kind::AcFirst,
            (true, _, _) => Kind::AcRefine,
        };
        let fits = match kind {
            Kind::Sequential => true,
            Kind::DcFirst | Kind::DcRefine => last == 0,
            Kind::AcFirst | Kind::AcRefine => first <= last && last < 64 && *count == 1,
        };
        // A refinement reads exactly one bit of each coefficient.
        if !fits || low > 13 || (high != 0 && low + 1 != high) || !(1..=4).contains(count) {
            return Err(DAMAGED);
        }
        let parts: Result<Vec<ScanChannel>, Reason> = (parts.as_chunks::<2>().0.iter())
            .map(|[id, codes]| {
                let channel = frame.channels.iter().position(|channel| channel.id == *id);
                let channel = channel.ok_or(DAMAGED)?;
                let table = |tables: &[Option<Arc<HuffmanTable>>; 4], slot: u8| {
                    tables.get(usize::from(slot)).cloned().flatten()
                };
                let part = ScanChannel {
                    channel,
                    dc: table(&tables.dc, codes >> 4),
                    ac: table(&tables.ac, codes & 15),
                };
                let started = &mut frame.channels[channel];
                started.begin_scan(&tables.quantization)?;
                for unread in &mut started.unread_low_bits[first..=last] {
                    // A scan must continue exactly where the last scan of this coefficient ended.
                    if unread.unwrap_or(0) != high {
                        return Err(DAMAGED);
                    }
                    *unread = Some(low);
                }
                Ok(part)
            })
            .collect();
        let parts = parts?;
        let blocks = parts.iter().map(|part| {
            let (h, v) = frame.channels[part.channel].sampling;
            h * v
        });
        if parts.len() > 1 && blocks.sum::<usize>() > MAX_BLOCKS_PER_MCU {
            return Err(DAMAGED);
        }
        Ok(Self {
            parts,
            kind,
            band: (first, last),
            low_bits: low.into(),
            restart_interval: tables.restart_interval,
        })
    }

    /// Reads all blocks, and returns how many bytes they took.
    pub(super) fn decode(
        &self,
        frame: &Frame,
        planes: &mut [Plane],
        data: &[u8],
    ) -> Result<usize, Reason> {
        for part in &self.parts {
            planes[part.channel].begin_scan(&frame.channels[part.channel]);
        }
        match self.kind {
            Kind::Sequential => {
                self.visit(frame, planes, data, |bits, state, part, plane, x, y| {
                    let block = Self::sequential_block(bits, &mut state.dc[part.channel], part)?;
                    plane.put_block(&block, x, y);
                    Ok(())
                })
            }
            Kind::DcFirst => self.visit(frame, planes, data, |bits, state, part, plane, x, y| {
                let dc = dc_coefficient(bits, &mut state.dc[part.channel], part)?;
                plane.block(x, y).0[0] = dc << self.low_bits;
                Ok(())
            }),
            Kind::DcRefine => self.visit(frame, planes, data, |bits, _, _, plane, x, y| {
                bits.fill();
                plane.block(x, y).0[0] |= (bits.take(1) as i16) << self.low_bits;
                Ok(())
            }),
            Kind::AcFirst => self.visit(frame, planes, data, |bits, state, part, plane, x, y| {
                self.ac_first(bits, state, part, plane.block(x, y))
            }),
            Kind::AcRefine => self.visit(frame, planes, data, |bits, state, part, plane, x, y| {
                self.ac_refine(bits, state, part, plane.block(x, y))
            }),
        }
    }

    /// Calls `each` for all blocks, in the order in which they are stored (T.81, A.2), with the column and the row of
    /// the block in its channel. In a scan of one channel the blocks are stored row by row. Returns how many bytes they
    /// took.
    #[inline(always)]
    fn visit(
        &self,
        frame: &Frame,
        planes: &mut [Plane],
        data: &[u8],
        mut each: impl FnMut(
            &mut BitReader<'_>,
            &mut BlockState,
            &ScanChannel,
            &mut Plane,
            usize,
            usize,
        ) -> Result<(), Reason>,
    ) -> Result<usize, Reason> {
        // The size of the channel if the scan has only one. Then blocks that only fill up the last MCU are not stored.
        let single = match &*self.parts {
            [part] => Some(frame.channels[part.channel].size_in_samples),
            _ => None,
        };
        let (across, down) = match single {
            Some((across, down)) => (across.div_ceil(BLOCK_SIDE), down.div_ceil(BLOCK_SIDE)),
            None => frame.mcu_counts,
        };
        let (mut at, mut bits, mut state) = (0, BitReader::new(data), BlockState::default());
        let (mut until_restart, mut restart) = (self.restart_interval, 0xD0);
        for y in 0..down {
            for x in 0..across {
                if self.restart_interval != 0 && until_restart == 0 {
                    at += bits.finish()?;
                    if next_marker(data, &mut at) != Some(restart) {
                        return Err(PIXELS_MISSING);
                    }
                    (bits, state) = (BitReader::new(&data[at..]), BlockState::default());
                    until_restart = self.restart_interval;
                    // The markers RST0 to RST7 come in turn. Any other marker means that data is missing.
                    restart = 0xD0 | (restart + 1) & 7;
                }
                // Without restarts this wraps around and is not used.
                until_restart = until_restart.wrapping_sub(1);
                for part in &self.parts {
                    let plane = &mut planes[part.channel];
                    if single.is_some() {
                        each(&mut bits, &mut state, part, plane, x, y)?;
                        continue;
                    }
                    let (h, v) = frame.channels[part.channel].sampling;
                    for (y, x) in (0..v).flat_map(|j| (0..h).map(move |i| (y * v + j, x * h + i))) {
                        each(&mut bits, &mut state, part, plane, x, y)?;
                    }
                }
                if bits.is_past_end() {
                    return Err(PIXELS_MISSING);
                }
            }
        }
        Ok(at + bits.finish()?)
    }

    /// Reads a block of a sequential image (T.81, F.2.2).
    #[inline(always)]
    fn sequential_block(
        bits: &mut BitReader<'_>,
        previous: &mut i32,
        part: &ScanChannel,
    ) -> Result<Block, Reason> {
        let table = part.ac.as_deref().ok_or(DAMAGED)?;
        let mut block = Block::EMPTY;
        block.0[0] = dc_coefficient(bits, previous, part)?;
        let mut at = 1;
        while at < 64 {
            bits.fill();
            let (zeros, value) = match table.short_coefficient(bits) {
                Some(coefficient) => coefficient,
                None => {
                    let symbol = table.symbol(bits)?;
                    let (zeros, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
                    if size == 0 {
                        // Sixteen zeros, and no coefficient after them.
                        if zeros == 15 {
                            at += 16;
                            continue;
                        }
                        // The rest of the block is zero.
                        break;
                    }
                    (zeros, bits.take_signed(size) as i16)
                }
            };
            at += zeros;
            let place = ZIGZAG.get(at).ok_or(DAMAGED)?;
            block.0[*place] = value;
            at += 1;
        }
        Ok(block)
    }

    /// Reads the first bits of a band of a block (T.81, G.1.2.2).
    fn ac_first(
        &self,
        bits: &mut BitReader<'_>,
        state: &mut BlockState,
        part: &ScanChannel,
        block: &mut Block,
    ) -> Result<(), Reason> {
        if state.empty_blocks > 0 {
            state.empty_blocks -= 1;
            return Ok(());
        }
        let table = part.ac.as_deref().ok_or(DAMAGED)?;
        let (mut at, last) = self.band;
        while at <= last {
            bits.fill();
            let symbol = table.symbol(bits)?;
            let (zeros, size) = (symbol >> 4, u32::from(symbol & 15));
            if size != 0 {
                at += usize::from(zeros);
                let place = ZIGZAG.get(at).filter(|_| at <= last).ok_or(DAMAGED)?;
                block.0[*place] = (bits.take_signed(size) << self.low_bits) as i16;
                at += 1;
            } else if zeros == 15 {
                // Sixteen zeros, and no coefficient after them.
                at += 16;
            } else {
                state.empty_blocks = empty_run(bits, zeros) - 1;
                break;
            }
        }
        Ok(())
    }

    /// Reads one more bit of the known coefficients of a band, and new coefficients of one bit (T.81, G.1.2.3).
    fn ac_refine(
        &self,
        bits: &mut BitReader<'_>,
        state: &mut BlockState,
        part: &ScanChannel,
        block: &mut Block,
    ) -> Result<(), Reason> {
        let table = part.ac.as_deref().ok_or(DAMAGED)?;
        let one = 1_i16 << self.low_bits;
        let (mut at, last) = self.band;
        while at <= last && state.empty_blocks == 0 {
            bits.fill();
            let symbol = table.symbol(bits)?;
            let (mut zeros, size) = (symbol >> 4, symbol & 15);
            let new = match size {
                0 if zeros < 15 => {
                    state.empty_blocks = empty_run(bits, zeros);
                    break;
                }
                0 => 0,
                1 if bits.take(1) == 1 => one,
                1 => -one,
                _ => return Err(DAMAGED),
            };
            // The new coefficient comes after `zeros` coefficients that are still zero. The coefficients that are not
            // zero get their next bit.
            while at <= last {
                let coefficient = &mut block.0[ZIGZAG[at]];
                at += 1;
                if *coefficient != 0 {
                    refine(bits, coefficient, one);
                } else if zeros > 0 {
                    zeros -= 1;
                } else {
                    *coefficient = new;
                    break;
                }
            }
        }
        if state.empty_blocks > 0 {
            for place in &ZIGZAG[at..=last] {
                let coefficient = &mut block.0[*place];
                if *coefficient != 0 {
                    refine(bits, coefficient, one);
                }
            }
            state.empty_blocks -= 1;
        }
        Ok(())
    }
}

/// Reads the DC coefficient of a block, which is stored as the difference from the previous block's (T.81, F.2.2.1).
#[inline(always)]
fn dc_coefficient(
    bits: &mut BitReader<'_>,
    previous: &mut i32,
    part: &ScanChannel,
) -> Result<i16, Reason> {
    let table = part.dc.as_deref().ok_or(DAMAGED)?;
    bits.fill();
    let size = table.symbol(bits)?;
    if size > 15 {
        return Err(DAMAGED);
    }
    *previous += bits.take_signed(size.into());
    i16::try_from(*previous).map_err(|_| DAMAGED)
}

/// Reads the length of a run of empty blocks, including this block (T.81, G.1.2.2).
fn empty_run(bits: &mut BitReader<'_>, size: u8) -> u32 {
    bits.fill();
    (1 << size) + bits.take(size.into()) as u32
}

/// Reads one more bit of a coefficient that is not zero. `one` has only this bit. As in libjpeg, a coefficient that has
/// the bit already does not change.
#[inline(always)]
fn refine(bits: &mut BitReader<'_>, coefficient: &mut i16, one: i16) {
    bits.fill();
    if bits.take(1) == 1 && *coefficient & one == 0 {
        *coefficient += if *coefficient > 0 { one } else { -one };
    }
}

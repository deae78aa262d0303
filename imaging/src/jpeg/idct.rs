//! Turns the coefficients of a block into samples. This is the inverse cosine transform (T.81, A.3.3) by Arai, Agui and
//! Nakajima, as in libjpeg's `jidctflt.c`, for eight columns at a time. Its error is less than half a level.

use std::f32::consts::SQRT_2;

use fearless_simd::{Level, dispatch};

/// The samples of a block on each side.
pub(super) const BLOCK_SIDE: usize = 8;

/// The coefficients of a block, row by row.
#[derive(Clone)]
pub(super) struct Block(pub(super) [i16; 64]);

impl Block {
    pub(super) const EMPTY: Self = Self([0; 64]);
}

/// The factors that coefficients are multiplied by: the quantization table, times the scale factors that this transform
/// leaves out.
#[derive(Clone)]
pub(super) struct Quantizers {
    factors: [f32; 64],
    /// The vector instructions that this machine has. `dispatch!` runs the code that is compiled for them.
    vector_level: Level,
}

type Rows = [[f32; BLOCK_SIDE]; BLOCK_SIDE];

impl Quantizers {
    pub(super) fn new(quantization: &[u16; 64]) -> Self {
        // The AAN algorithm leaves these factors out of its steps, so they are multiplied into the table here.
        const AAN_SCALE: [f32; BLOCK_SIDE] = [
            1.0,
            1.387_039_8,
            1.306_563,
            1.175_875_6,
            1.0,
            0.785_694_96,
            0.541_196_1,
            0.275_899_4,
        ];
        let factors = std::array::from_fn(|at| {
            f32::from(quantization[at]) * AAN_SCALE[at / BLOCK_SIDE] * AAN_SCALE[at % BLOCK_SIDE]
                / 8.0
        });
        Self {
            factors,
            vector_level: Level::new(),
        }
    }

    /// Writes the samples of a block. `stride` is the distance between rows.
    #[inline(always)]
    pub(super) fn write_samples(&self, block: &Block, samples: &mut [u8], stride: usize) {
        // Most blocks of a smooth area have no coefficient but the first, which is the mean. They need no transform.
        if block.0[1..].iter().fold(0, |all, one| all | one) == 0 {
            let mean = level(f32::from(block.0[0]) * self.factors[0]);
            for row in 0..BLOCK_SIDE {
                samples[row * stride..][..BLOCK_SIDE].fill(mean);
            }
            return;
        }
        dispatch!(self.vector_level, _simd => self.transform(block, samples, stride));
    }

    /// Writes the samples of a block by the whole transform: first across the columns, then across the rows.
    #[inline(always)]
    fn transform(&self, block: &Block, samples: &mut [u8], stride: usize) {
        let mut rows: Rows = [[0.0; BLOCK_SIDE]; BLOCK_SIDE];
        for ((row, coefficients), quantizers) in (rows.iter_mut())
            .zip(block.0.as_chunks::<BLOCK_SIDE>().0)
            .zip(self.factors.as_chunks::<BLOCK_SIDE>().0)
        {
            for ((value, coefficient), quantizer) in
                row.iter_mut().zip(coefficients).zip(quantizers)
            {
                *value = f32::from(*coefficient) * quantizer;
            }
        }
        transform_columns(&mut rows);
        let mut rows = transposed(&rows);
        transform_columns(&mut rows);
        let rows = transposed(&rows);
        for (row, values) in rows.iter().enumerate() {
            let out: &mut [u8; BLOCK_SIDE] = samples[row * stride..]
                .first_chunk_mut()
                .expect("a block fits");
            for (sample, value) in out.iter_mut().zip(values) {
                *sample = level(*value);
            }
        }
    }
}

/// The nearest of 256 levels. 128 is added because samples are stored around zero (T.81, A.3.1).
#[inline(always)]
fn level(value: f32) -> u8 {
    // 2^23. A float of this size has no bits for fractions. So adding 2^23 rounds, and the lowest bits of the sum are
    // the integer. This is faster than a conversion.
    const ROUND: f32 = 8_388_608.0;
    ((value + 128.0).clamp(0.0, 255.0) + ROUND)
        .to_bits()
        .to_le_bytes()[0]
}

#[inline(always)]
fn transposed(rows: &Rows) -> Rows {
    std::array::from_fn(|x| std::array::from_fn(|y| rows[y][x]))
}

/// Applies the one-dimensional transform to each column.
#[expect(
    clippy::needless_range_loop,
    reason = "a column is one index into eight rows"
)]
#[inline(always)]
fn transform_columns(rows: &mut Rows) {
    for x in 0..BLOCK_SIDE {
        let at = |row: usize| rows[row][x];
        let (sum04, difference04) = (at(0) + at(4), at(0) - at(4));
        let sum26 = at(2) + at(6);
        let difference26 = (at(2) - at(6)) * SQRT_2 - sum26;
        let even = [
            sum04 + sum26,
            difference04 + difference26,
            difference04 - difference26,
            sum04 - sum26,
        ];
        let (z13, z10) = (at(5) + at(3), at(5) - at(3));
        let (z11, z12) = (at(1) + at(7), at(1) - at(7));
        let z5 = (z10 + z12) * 1.847_759;
        let odd0 = z11 + z13;
        let odd1 = z5 - z10 * 2.613_126 - odd0;
        let odd2 = (z11 - z13) * SQRT_2 - odd1;
        let odd3 = z5 - z12 * 1.082_392_2 - odd2;
        for (row, (even, odd)) in even.into_iter().zip([odd0, odd1, odd2, odd3]).enumerate() {
            rows[row][x] = even + odd;
            rows[7 - row][x] = even - odd;
        }
    }
}

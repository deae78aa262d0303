//! Resamples an image by a filter, row by row: rows of the source go in, from top to bottom, and rows of the
//! result are made as soon as their sources are there.
//!
//! So only the few source rows that the next result needs are held as floats, and these stay in the cache of the
//! processor. Of a result row, first the source rows are mixed (vertical pass), and then the pixels of the mixed row
//! (horizontal pass). When an image is reduced, this order does less work, because the second pass is the slower one.
//!
//! The loops are written so that the compiler makes vector instructions from them, and `dispatch!` runs the version for
//! the widest vectors of the machine. Each sum is added in a fixed order, so every machine gives the same bytes.

#![expect(
    clippy::inline_always,
    reason = "`dispatch!` gives its vector instructions only to functions that are inlined"
)]

use domain::generation::image::Pixels;
use fearless_simd::{Level, dispatch};

use super::filter::{Filter, Weights, most_taps};
use super::linear_light::{Curve, STRAIGHT, step};

/// The number of floats that the vertical pass sums up at a time. They fit into the vector registers.
const BLOCK: usize = 32;
/// The horizontal pass reads each pixel as this many floats, which fill a vector register.
const LANES: usize = 4;
/// The number of weights that the horizontal pass applies in one step of its loop.
const UNROLLED: usize = 4;

/// The part of an image that is resampled, in pixels of the image: start and length across, start and length down.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) across: (f64, f64),
    pub(super) down: (f64, f64),
}

/// Makes an image of another size. `N` is the number of channels: 3 for RGB, 4 for RGBA.
pub(super) struct Resampler<const N: usize> {
    curve: &'static Curve,
    /// The vector instructions that this machine has.
    vector_level: Level,
    /// The weights of source columns for each column of the result.
    column_weights: Weights,
    /// The weights of source rows for each row of the result.
    row_weights: Weights,
    /// The number of floats of a source row.
    source_row_len: usize,
    /// The latest source rows, as shares. Row y is in slot y modulo the number of slots. A slot is as long as a whole
    /// number of blocks.
    latest: Vec<Vec<f32>>,
    /// The number of source rows that were added.
    added: usize,
    /// The number of rows of the result that were made.
    made: usize,
    /// The latest result of the vertical pass.
    mixed: Vec<f32>,
    /// The latest result of the horizontal pass, with [`LANES`] floats for each pixel.
    resampled: Vec<f32>,
    /// `resampled`, rounded to steps of the curve.
    steps: Vec<u16>,
    /// The samples of all rows of the result that were made.
    bytes: Vec<u8>,
}

/// The most memory, in bytes, that a resampler takes for an image, without the pixels of the result.
pub(super) fn memory(source: Pixels, target: Pixels) -> usize {
    let taps = |from: u32, to: u32| most_taps(from.div_ceil(to.max(1)) as usize);
    let rows = taps(source.height, target.height);
    let columns = taps(source.width, target.width);
    // One more row is the result of the vertical pass.
    let floats = (rows + 1) * (source.width as usize * LANES + BLOCK);
    let weights = rows * target.height as usize + columns * target.width as usize;
    // The weights are calculated with twice as many bytes, so there are three times as many meanwhile.
    (floats + weights * 3 + target.width as usize * LANES * 2) * size_of::<f32>()
}

impl<const N: usize> Resampler<N> {
    /// A resampler that makes `part` of the source as large as `target`, with this filter. `curve` says what is averaged.
    pub(super) fn new(
        filter: Filter,
        source: Pixels,
        part: Part,
        target: Pixels,
        curve: &'static Curve,
    ) -> Self {
        let [width, height] = [source.width, source.height].map(|side| side as usize);
        let [to_width, to_height] = [target.width, target.height].map(|side| side as usize);
        let column_weights = Weights::new(filter, width, part.across, to_width);
        let row_weights = Weights::new(filter, height, part.down, to_height);
        // The horizontal pass reads up to a vector beyond the last pixel.
        let slot_len = (width * N + LANES - N).next_multiple_of(BLOCK);
        Self {
            curve,
            vector_level: Level::new(),
            source_row_len: width * N,
            latest: vec![vec![0.0; slot_len]; row_weights.taps],
            column_weights,
            row_weights,
            added: 0,
            made: 0,
            mixed: vec![0.0; slot_len],
            resampled: vec![0.0; to_width * LANES],
            steps: vec![0; to_width * LANES],
            bytes: Vec::with_capacity(to_width * to_height * N),
        }
    }

    /// Adds the next row of the source, and makes the rows of the result for which all sources are there now.
    pub(super) fn add(&mut self, row: &[u8]) {
        let y = self.added;
        self.added += 1;
        // A row is not needed if it is above the inputs of the next output, or if all outputs are made.
        let first = self.row_weights.firsts.get(self.made);
        let Some(first) = first.filter(|first| **first <= y) else {
            return;
        };
        let slot = y % self.row_weights.taps;
        let (curve, shares) = (self.curve, &mut self.latest[slot][..self.source_row_len]);
        dispatch!(self.vector_level, _simd => decode::<N>(curve, row, shares));
        let mut first = *first;
        while first + self.row_weights.taps == self.added {
            self.make_row(first);
            self.made += 1;
            match self.row_weights.firsts.get(self.made) {
                Some(next) => first = *next,
                None => break,
            }
        }
    }

    /// The samples of the result. Returns `None` if rows of the source are missing.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        (self.made == self.row_weights.firsts.len()).then_some(self.bytes)
    }

    /// Makes the next row of the result. `first` is its first source row.
    fn make_row(&mut self, first: usize) {
        let taps = self.row_weights.taps;
        let sources: Vec<(&[f32], f32)> = (first..first + taps)
            .map(|y| &*self.latest[y % taps])
            .zip(self.row_weights.of(self.made).iter().copied())
            .collect();
        let (column_weights, mixed) = (&self.column_weights, &mut self.mixed);
        let (resampled, steps) = (&mut self.resampled, &mut self.steps);
        dispatch!(self.vector_level, _simd => {
            mix_rows(&sources, mixed);
            mix_columns::<N>(column_weights, mixed, resampled);
            round::<N>(resampled, steps);
        });
        encode::<N>(self.curve, steps, &mut self.bytes);
    }
}

/// The vertical pass: the sum of the rows, each times its weight.
#[inline(always)]
fn mix_rows(rows: &[(&[f32], f32)], out: &mut [f32]) {
    for (at, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let mut sums = [0.0; BLOCK];
        for (row, weight) in rows {
            let values: &[f32; BLOCK] = row[at * BLOCK..].first_chunk().expect("whole blocks");
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value * weight;
            }
        }
        *out = sums;
    }
}

/// The horizontal pass: each pixel is the sum of adjacent pixels of the row, each times its weight. If a pixel has three
/// channels, its fourth float means nothing. It is written all the same, because otherwise the compiler would add up two
/// channels and one, and not all at once.
#[inline(always)]
fn mix_columns<const N: usize>(weights: &Weights, row: &[f32], out: &mut [f32]) {
    let out = out.as_chunks_mut::<LANES>().0.iter_mut();
    for (out, (first, weights)) in out.zip(weights.of_outputs()) {
        let mut pixels = &row[first * N..];
        let mut sums = [0.0; LANES];
        let (groups, rest) = weights.as_chunks::<UNROLLED>();
        for group in groups {
            // One check of the length for all pixels of a group.
            let window = &pixels[..(UNROLLED - 1) * N + LANES];
            for (at, weight) in group.iter().enumerate() {
                add_pixel(&window[at * N..], *weight, &mut sums);
            }
            pixels = &pixels[UNROLLED * N..];
        }
        for (at, weight) in rest.iter().enumerate() {
            add_pixel(&pixels[at * N..], *weight, &mut sums);
        }
        *out = sums;
    }
}

/// Adds the first pixel times its weight. If a pixel has three channels, the fourth value is the first one of the next
/// pixel.
#[inline(always)]
fn add_pixel(pixels: &[f32], weight: f32, sums: &mut [f32; LANES]) {
    let values: &[f32; LANES] = pixels.first_chunk().expect("a whole vector");
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value * weight;
    }
}

/// Rounds a row of averages to steps of the curve. In RGBA, colors are divided by their alpha.
#[inline(always)]
fn round<const N: usize>(row: &[f32], steps: &mut [u16]) {
    if N == LANES {
        for (steps, pixel) in (steps.as_chunks_mut::<4>().0.iter_mut()).zip(row.as_chunks::<4>().0)
        {
            // Not zero, because it is a divisor.
            let visible = pixel[3].max(f32::MIN_POSITIVE);
            let color = |channel: usize| step(pixel[channel] / visible);
            *steps = [color(0), color(1), color(2), step(pixel[3])];
        }
        return;
    }
    for (out, share) in steps.iter_mut().zip(row) {
        *out = step(*share);
    }
}

/// Turns the values of a file into shares, which are averaged. In RGBA, colors are multiplied by their alpha.
#[inline(always)]
fn decode<const N: usize>(curve: &Curve, row: &[u8], out: &mut [f32]) {
    if N == LANES {
        for (out, pixel) in out
            .as_chunks_mut::<4>()
            .0
            .iter_mut()
            .zip(row.as_chunks::<4>().0)
        {
            let alpha = STRAIGHT.share(pixel[3]);
            let color = |channel: usize| curve.share(pixel[channel]) * alpha;
            *out = [color(0), color(1), color(2), alpha];
        }
        return;
    }
    for (share, value) in out.iter_mut().zip(row) {
        *share = curve.share(*value);
    }
}

/// Turns rounded averages (steps) of a row into the values of a file, and appends them.
fn encode<const N: usize>(curve: &Curve, steps: &[u16], bytes: &mut Vec<u8>) {
    let pixels = steps.as_chunks::<LANES>().0;
    let made = bytes.len();
    bytes.resize(made + pixels.len() * N, 0);
    let row = bytes[made..].as_chunks_mut::<N>().0.iter_mut();
    for (bytes, steps) in row.zip(pixels) {
        for (channel, (byte, step)) in bytes.iter_mut().zip(steps).enumerate() {
            let is_alpha = channel == LANES - 1;
            *byte = if is_alpha { &STRAIGHT } else { curve }.value(*step);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use super::super::linear_light::SRGB;
    use super::*;

    /// Samples that look like noise, from a linear congruential generator.
    fn noise(count: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        (0..count).map(|_| next()).collect()
    }

    fn resampled<const N: usize>(
        filter: Filter,
        samples: &[u8],
        from: Pixels,
        part: Part,
        to: Pixels,
    ) -> Vec<u8> {
        let mut resampler = Resampler::<N>::new(filter, from, part, to, &SRGB);
        for row in samples.chunks_exact(from.width as usize * N) {
            resampler.add(row);
        }
        resampler.finish().unwrap()
    }

    /// The weight of each input for an output, by the definition of the filter, in doubles.
    fn exact_weights(
        filter: Filter,
        inputs: u32,
        (start, length): (f64, f64),
        outputs: u32,
        at: u32,
    ) -> Vec<f64> {
        let step = length / f64::from(outputs);
        let center = start + (f64::from(at) + 0.5) * step;
        let sinc = |x: f64| {
            if x == 0.0 {
                1.0
            } else {
                (PI * x).sin() / (PI * x)
            }
        };
        let weight = |input: u32| {
            let distance = (f64::from(input) + 0.5 - center) / step.max(1.0);
            match filter {
                Filter::Lanczos if distance.abs() < 3.0 => sinc(distance) * sinc(distance / 3.0),
                Filter::Hamming if distance.abs() < 1.0 => {
                    sinc(distance) * (0.54 + 0.46 * (PI * distance).cos())
                }
                _ => 0.0,
            }
        };
        let weights: Vec<f64> = (0..inputs).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    }

    /// Compares all pixels with sums in doubles over the whole image. They may differ by a level, where the exact value
    /// is halfway between two.
    fn check<const N: usize>(filter: Filter, from: Pixels, part: Part, to: Pixels) {
        let samples = noise(from.width as usize * from.height as usize * N);
        let result = resampled::<N>(filter, &samples, from, part, to);
        let pixels = samples.as_chunks::<N>().0;
        for (y, row) in (0..to.height).zip(result.chunks_exact(to.width as usize * N)) {
            let down = exact_weights(filter, from.height, part.down, to.height, y);
            for (x, pixel) in (0..to.width).zip(row.as_chunks::<N>().0) {
                let across = exact_weights(filter, from.width, part.across, to.width, x);
                let mut sums = [0.0; N];
                for (line, down) in pixels.chunks_exact(from.width as usize).zip(&down) {
                    for (pixel, across) in line.iter().zip(&across) {
                        let alpha = if N == 4 {
                            f64::from(pixel[N - 1]) / 255.0
                        } else {
                            1.0
                        };
                        for channel in 0..N {
                            let share = f64::from(SRGB.share(pixel[channel])) * alpha;
                            let share = if channel == 3 { alpha } else { share };
                            sums[channel] += share * down * across;
                        }
                    }
                }
                for channel in 0..N {
                    let exact = match (N, channel) {
                        (_, 3) => STRAIGHT.value(step(single(sums[3]))),
                        (4, _) if pixel[N - 1] < 8 => continue,
                        (4, _) => SRGB.value(step(single(sums[channel] / sums[N - 1]))),
                        _ => SRGB.value(step(single(sums[channel]))),
                    };
                    let is = pixel[channel];
                    assert!(is.abs_diff(exact) <= 1, "{x},{y}: {is} is not {exact}");
                }
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a float is exact enough")]
    fn single(value: f64) -> f32 {
        value as f32
    }

    fn whole(from: Pixels) -> Part {
        Part {
            across: (0.0, f64::from(from.width)),
            down: (0.0, f64::from(from.height)),
        }
    }

    #[test]
    fn pixels_are_sums_by_the_definition() {
        let size = |width, height| Pixels { width, height };
        for filter in [Filter::Lanczos, Filter::Hamming] {
            for (from, to) in [
                (size(40, 30), size(20, 15)),
                (size(40, 30), size(13, 11)),
                (size(20, 15), size(40, 30)),
                (size(31, 17), size(30, 44)),
                (size(90, 1), size(20, 1)),
                (size(1, 5), size(4, 9)),
                (size(2, 2), size(1, 1)),
            ] {
                check::<3>(filter, from, whole(from), to);
                check::<4>(filter, from, whole(from), to);
            }
            let from = size(50, 40);
            let part = Part {
                across: (5.5, 39.0),
                down: (14.25, 11.5),
            };
            check::<3>(filter, from, part, size(20, 10));
            check::<4>(filter, from, part, size(60, 17));
        }
    }

    /// The widest vectors of this machine give the same sums as those of every machine.
    #[test]
    fn every_machine_gives_the_same_sums() {
        let shares: Vec<f32> = noise(6_400)
            .into_iter()
            .map(|value| SRGB.share(value))
            .collect();
        let rows: Vec<(&[f32], f32)> = (shares.chunks_exact(640).zip(&shares))
            .map(|(row, weight)| (row, *weight - 0.3))
            .collect();
        let weights = Weights::new(Filter::Lanczos, 200, (0.0, 200.0), 77);
        let [mut plain, mut wide] = [[0.0; 640], [0.0; 640]];
        let [mut plain_out, mut wide_out] = [[0.0; 77 * 3], [0.0; 77 * 3]];
        mix_rows(&rows, &mut plain);
        mix_columns::<3>(&weights, &plain, &mut plain_out);
        dispatch!(Level::new(), _simd => {
            mix_rows(&rows, &mut wide);
            mix_columns::<3>(&weights, &wide, &mut wide_out);
        });
        assert_eq!(plain.map(f32::to_bits), wide.map(f32::to_bits));
        assert_eq!(plain_out.map(f32::to_bits), wide_out.map(f32::to_bits));
    }

    #[test]
    fn missing_rows_are_noticed() {
        let from = Pixels {
            width: 8,
            height: 8,
        };
        let mut resampler = Resampler::<3>::new(Filter::Lanczos, from, whole(from), from, &SRGB);
        for row in noise(7 * 24).chunks_exact(24) {
            resampler.add(row);
        }
        assert_eq!(resampler.finish(), None);
    }
}

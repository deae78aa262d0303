//! The weights of a Lanczos filter with three lobes.

use std::f64::consts::PI;

/// How far the filter reaches on each side, in pixels of the smaller of the two images.
const LOBES: f64 = 3.0;

/// The weights that make each output of a row or a column from some adjacent inputs. All outputs have the same number of
/// weights. Beside an edge of the image some of them are zero.
#[expect(clippy::struct_field_names, reason = "weights are made of weights")]
pub(super) struct Weights {
    /// The number of inputs of an output.
    pub(super) taps: usize,
    /// The first input of each output. It grows from output to output.
    pub(super) firsts: Vec<usize>,
    /// The weights of all outputs, one after the other.
    weights: Vec<f32>,
}

impl Weights {
    /// The weights for `outputs` pixels that show the inputs from `start` on, `length` of them, of `inputs` pixels.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "sizes of images are small, and floats are exact enough as weights"
    )]
    pub(super) fn new(inputs: usize, (start, length): (f64, f64), outputs: usize) -> Self {
        let step = length / outputs as f64;
        let spread = step.max(1.0);
        let spans: Vec<(usize, Vec<f64>)> = (0..outputs)
            .map(|output| {
                let center = start + (output as f64 + 0.5) * step;
                let reach = LOBES * spread;
                // The center of input i is at i + 0.5.
                let first = (center - reach - 0.5).ceil().max(0.0) as usize;
                let end = (center + reach + 0.5).floor() as usize;
                let end = end.min(inputs);
                let weight = |input: usize| lanczos((input as f64 + 0.5 - center) / spread);
                (first, (first..end).map(weight).collect())
            })
            .collect();
        let taps = spans.iter().map(|(_, span)| span.len()).max().unwrap_or(0);
        let mut firsts = Vec::with_capacity(outputs);
        let mut weights = vec![0.0; outputs * taps];
        for ((first, span), weights) in spans.iter().zip(weights.chunks_exact_mut(taps)) {
            // A span that was cut off at the end of the image is filled up with zeros at its front.
            let filled_first = (*first).min(inputs - taps);
            firsts.push(filled_first);
            let sum: f64 = span.iter().sum();
            for (weight, exact) in weights[first - filled_first..].iter_mut().zip(span) {
                *weight = (exact / sum) as f32;
            }
        }
        Self {
            taps,
            firsts,
            weights,
        }
    }

    /// The weights of each output.
    pub(super) fn of_outputs(&self) -> impl Iterator<Item = (usize, &[f32])> {
        let weights = self.weights.chunks_exact(self.taps);
        self.firsts.iter().copied().zip(weights)
    }

    /// The weights of one output.
    pub(super) fn of(&self, output: usize) -> &[f32] {
        &self.weights[output * self.taps..][..self.taps]
    }
}

/// The most inputs that make an output of an image that is reduced to one part in `reduction`.
pub(super) fn most_taps(reduction: usize) -> usize {
    // Three lobes on each side, and an input at each end that reaches in.
    6 * reduction.max(1) + 2
}

/// The value of the filter at this distance from its center.
fn lanczos(distance: f64) -> f64 {
    if distance == 0.0 {
        return 1.0;
    }
    if distance.abs() >= LOBES {
        return 0.0;
    }
    let angle = PI * distance;
    LOBES * angle.sin() * (angle / LOBES).sin() / (angle * angle)
}

//! The filters that images are resampled with, and the weights that follow from them.

use std::f64::consts::PI;

/// How much each pixel counts for a result pixel, by its distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// A sinc in a sinc of three lobes. It keeps the most detail.
    Lanczos,
    /// A sinc in a Hamming window of one lobe. It takes a third of the time and is nearly as sharp, which is enough for
    /// thumbnails.
    Hamming,
}

impl Filter {
    /// How far the filter reaches on each side, in pixels of the smaller of the two images.
    fn reach(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Hamming => 1.0,
        }
    }

    /// The value of the filter at this distance from its center.
    fn value(self, distance: f64) -> f64 {
        if distance.abs() >= self.reach() {
            return 0.0;
        }
        let window = match self {
            Self::Lanczos => sinc(distance / 3.0),
            Self::Hamming => 0.54 + 0.46 * (PI * distance).cos(),
        };
        sinc(distance) * window
    }
}

/// sin(πx) / πx
fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    (PI * x).sin() / (PI * x)
}

/// The weights that make each output of a row or a column from some adjacent inputs. All outputs have the same number
/// of weights. Beside an edge of the image some of them are zero.
#[expect(
    clippy::struct_field_names,
    reason = "the field holds the weights themselves"
)]
pub(super) struct Weights {
    /// The number of inputs of each output.
    pub(super) taps: usize,
    /// The first input of each output. It never decreases. Several outputs may have the same one: at the edges, and
    /// when an image is enlarged.
    pub(super) firsts: Vec<usize>,
    /// The weights of all outputs, one after the other.
    weights: Vec<f32>,
}

impl Weights {
    /// The weights of a filter for `outputs` pixels that show a part of `inputs` pixels. The part begins at `start` and is
    /// `length` long, in pixels of the input.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "sizes of images are small, and floats are exact enough as weights"
    )]
    pub(super) fn new(
        filter: Filter,
        inputs: usize,
        (start, length): (f64, f64),
        outputs: usize,
    ) -> Self {
        // The number of input pixels for each output pixel.
        let step = length / outputs as f64;
        // An image is reduced without aliasing because the filter is widened to the pixels of the output.
        let spread = step.max(1.0);
        let spans: Vec<(usize, Vec<f64>)> = (0..outputs)
            .map(|output| {
                let center = start + (output as f64 + 0.5) * step;
                let reach = filter.reach() * spread;
                // The center of input i is at i + 0.5.
                let first = (center - reach - 0.5).ceil().max(0.0) as usize;
                let end = (center + reach + 0.5).floor() as usize;
                let end = end.min(inputs);
                let weight = |input: usize| filter.value((input as f64 + 0.5 - center) / spread);
                (first, (first..end).map(weight).collect())
            })
            .collect();
        let taps = spans.iter().map(|(_, span)| span.len()).max().unwrap_or(0);
        let mut firsts = Vec::with_capacity(outputs);
        let mut weights = vec![0.0; outputs * taps];
        for ((first, span), weights) in spans.iter().zip(weights.chunks_exact_mut(taps)) {
            // A short span is filled up with zeros at its end. If there are too few inputs behind it, it is filled up
            // at its front.
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

    /// The first input and the weights of each output.
    pub(super) fn of_outputs(&self) -> impl Iterator<Item = (usize, &[f32])> {
        let weights = self.weights.chunks_exact(self.taps);
        self.firsts.iter().copied().zip(weights)
    }

    /// The weights of one output.
    pub(super) fn of(&self, output: usize) -> &[f32] {
        &self.weights[output * self.taps..][..self.taps]
    }
}

/// The most inputs that make an output of an image that is reduced to one part in `reduction`, with any filter.
pub(super) fn most_taps(reduction: usize) -> usize {
    // Three lobes on each side, and an input at each end that reaches in.
    6 * reduction.max(1) + 2
}

//! The frame header: how large the picture is, and what its channels are.

use super::idct::{Block, Multipliers};
use super::{DAMAGED, Model, Reason};

/// Samples of a block's side.
pub(super) const SIDE: usize = 8;

pub(super) struct Frame {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) progressive: bool,
    pub(super) channels: Vec<Channel>,
    /// Groups of blocks, across and down.
    pub(super) groups: (usize, usize),
    /// The most samples of any channel, across and down.
    pub(super) most: (usize, usize),
}

pub(super) struct Channel {
    pub(super) id: u8,
    /// Blocks in a group, across and down.
    pub(super) sampling: (usize, usize),
    /// Samples, across and down, that are pixels.
    pub(super) samples: (usize, usize),
    table: usize,
    /// What its coefficients are multiplied with; known since its first scan.
    multipliers: Option<Multipliers>,
    /// For each coefficient the bits that are still to come; `None` if it has not begun.
    pub(super) bits_to_come: [Option<u8>; 64],
}

impl Frame {
    pub(super) fn new(data: &[u8], progressive: bool) -> Result<Self, Reason> {
        let [precision, h1, h0, w1, w0, count, channels @ ..] = data else {
            return Err(DAMAGED);
        };
        if *precision != 8 {
            return Err("it has more than eight bits a channel, which few programs read");
        }
        let [width, height] = [[*w1, *w0], [*h1, *h0]].map(u16::from_be_bytes);
        if width == 0 || height == 0 {
            return Err("it holds no pixels");
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err("it has neither one, three nor four channels");
        }
        if channels.len() != usize::from(*count) * 3 {
            return Err(DAMAGED);
        }
        let mut channels: Vec<Channel> = (channels.as_chunks::<3>().0.iter())
            .map(|[id, sampling, table]| Channel {
                id: *id,
                sampling: (usize::from(sampling >> 4), usize::from(sampling & 15)),
                samples: (0, 0),
                table: usize::from(*table),
                multipliers: None,
                bits_to_come: [None; 64],
            })
            .collect();
        let sampling = channels.iter().map(|channel| channel.sampling);
        if sampling
            .clone()
            .any(|(h, v)| !(1..=4).contains(&h) || !(1..=4).contains(&v))
        {
            return Err(DAMAGED);
        }
        let most = sampling.fold((1, 1), |(h, v), one| (h.max(one.0), v.max(one.1)));
        for Channel {
            sampling: (h, v),
            samples,
            ..
        } in &mut channels
        {
            if most.0 % *h != 0 || most.1 % *v != 0 {
                return Err("its channels have sizes that do not fit each other");
            }
            *samples = (
                (usize::from(width) * *h).div_ceil(most.0),
                (usize::from(height) * *v).div_ceil(most.1),
            );
        }
        Ok(Self {
            width: width.into(),
            height: height.into(),
            progressive,
            channels,
            groups: (
                usize::from(width).div_ceil(most.0 * SIDE),
                usize::from(height).div_ceil(most.1 * SIDE),
            ),
            most,
        })
    }

    /// What its channels mean, by the rules of libjpeg. `adobe` is the transform that Adobe's segment names.
    pub(super) fn model(&self, jfif: bool, adobe: Option<u8>) -> Model {
        let ids: Vec<u8> = self.channels.iter().map(|channel| channel.id).collect();
        match (ids.len(), adobe) {
            (1, _) => Model::Gray,
            (3, _) if jfif => Model::YCbCr,
            (3, Some(0)) => Model::Rgb,
            (3, None) if ids == *b"RGB" => Model::Rgb,
            (3, _) => Model::YCbCr,
            (_, None | Some(0)) => Model::Cmyk,
            _ => Model::Ycck,
        }
    }

    /// Whether every coefficient is there, to its last bit.
    pub(super) fn is_complete(&self) -> bool {
        let mut bits = self
            .channels
            .iter()
            .flat_map(|channel| &channel.bits_to_come);
        bits.all(|bits| *bits == Some(0))
    }

    /// How many samples all channels have, and the largest of them, with those that fill the last group.
    pub(super) fn samples(&self) -> (usize, usize) {
        let of = |channel: &Channel| {
            let across = self.groups.0 * channel.sampling.0 * SIDE;
            across * self.groups.1 * channel.sampling.1 * SIDE
        };
        let all = self.channels.iter().map(of);
        (all.clone().sum(), all.max().unwrap_or_default())
    }

    /// Room for the samples of each channel.
    pub(super) fn planes(&self) -> Vec<Plane> {
        let of = |channel: &Channel| Plane::new(self, channel);
        self.channels.iter().map(of).collect()
    }
}

impl Channel {
    /// Takes over the quantization table as it is now: later ones are meant for other channels.
    pub(super) fn begin(&mut self, tables: &[Option<[u16; 64]>; 4]) -> Result<(), Reason> {
        if self.multipliers.is_none() {
            let table = tables
                .get(self.table)
                .and_then(Option::as_ref)
                .ok_or(DAMAGED)?;
            self.multipliers = Some(Multipliers::new(table));
        }
        Ok(())
    }
}

/// The samples of one channel; in a progressive picture, its coefficients until all of them are there.
pub(super) struct Plane {
    pub(super) samples: Vec<u8>,
    /// Samples in a row, those that fill the last group included.
    pub(super) stride: usize,
    coefficients: Vec<Block>,
    multipliers: Option<Multipliers>,
}

impl Plane {
    fn new(frame: &Frame, channel: &Channel) -> Self {
        let across = frame.groups.0 * channel.sampling.0;
        let down = frame.groups.1 * channel.sampling.1;
        let (samples, coefficients) = if frame.progressive {
            (Vec::new(), vec![Block::EMPTY; across * down])
        } else {
            (vec![0; across * down * 64], Vec::new())
        };
        Self {
            samples,
            stride: across * SIDE,
            coefficients,
            multipliers: None,
        }
    }

    pub(super) fn begin(&mut self, channel: &Channel) {
        self.multipliers.clone_from(&channel.multipliers);
    }

    /// The coefficients of a block, while they are still read.
    pub(super) fn block(&mut self, x: usize, y: usize) -> &mut Block {
        &mut self.coefficients[y * (self.stride / SIDE) + x]
    }

    /// Makes samples of a block that is complete.
    #[inline(always)]
    pub(super) fn put(&mut self, block: &Block, x: usize, y: usize) {
        let at = (y * self.stride + x) * SIDE;
        if let Some(multipliers) = &self.multipliers {
            multipliers.samples(block, &mut self.samples[at..], self.stride);
        }
    }

    /// Makes samples of all coefficients that were kept, and gives their room back.
    pub(super) fn finish(&mut self) {
        let blocks = std::mem::take(&mut self.coefficients);
        if !blocks.is_empty() {
            self.samples = vec![0; blocks.len() * 64];
        }
        let across = self.stride / SIDE;
        for (at, block) in blocks.iter().enumerate() {
            self.put(block, at % across, at / across);
        }
    }
}

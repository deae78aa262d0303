//! The frame header (T.81, B.2.2): the size of the picture and its channels.

use super::idct::{Block, Multipliers, SIDE};
use super::{DAMAGED, Model, Reason};

/// The frame header.
pub(super) struct Frame {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) progressive: bool,
    pub(super) channels: Vec<Channel>,
    /// Groups of blocks (T.81: MCU), across and down.
    pub(super) groups: (usize, usize),
    /// The largest sampling factors of all channels, across and down.
    pub(super) max_sampling: (usize, usize),
}

/// A component of the frame.
pub(super) struct Channel {
    pub(super) id: u8,
    /// Blocks in a group, across and down (T.81: sampling factors).
    pub(super) sampling: (usize, usize),
    /// Samples across and down, without those that fill up the last group.
    pub(super) samples: (usize, usize),
    table: usize,
    /// The factors of its coefficients. Known from its first scan on.
    multipliers: Option<Multipliers>,
    /// For each coefficient the number of low bits that are still missing. `None` before its first scan.
    pub(super) missing_bits: [Option<u8>; 64],
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
                missing_bits: [None; 64],
            })
            .collect();
        let sampling = channels.iter().map(|channel| channel.sampling);
        if sampling
            .clone()
            .any(|(h, v)| !(1..=4).contains(&h) || !(1..=4).contains(&v))
        {
            return Err(DAMAGED);
        }
        let max_sampling = sampling.fold((1, 1), |(h, v), one| (h.max(one.0), v.max(one.1)));
        for Channel {
            sampling: (h, v),
            samples,
            ..
        } in &mut channels
        {
            if max_sampling.0 % *h != 0 || max_sampling.1 % *v != 0 {
                return Err("the sizes of its channels do not fit together");
            }
            *samples = (
                (usize::from(width) * *h).div_ceil(max_sampling.0),
                (usize::from(height) * *v).div_ceil(max_sampling.1),
            );
        }
        Ok(Self {
            width: width.into(),
            height: height.into(),
            progressive,
            channels,
            groups: (
                usize::from(width).div_ceil(max_sampling.0 * SIDE),
                usize::from(height).div_ceil(max_sampling.1 * SIDE),
            ),
            max_sampling,
        })
    }

    /// The color model, by the rules of libjpeg. `adobe` is the transform flag of Adobe's segment.
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

    /// Whether all bits of all coefficients were read.
    pub(super) fn is_complete(&self) -> bool {
        let mut bits = self
            .channels
            .iter()
            .flat_map(|channel| &channel.missing_bits);
        bits.all(|bits| *bits == Some(0))
    }

    /// The number of samples of all channels together, and of the largest channel, including those that fill up the last group.
    pub(super) fn samples(&self) -> (usize, usize) {
        let of = |channel: &Channel| {
            let across = self.groups.0 * channel.sampling.0 * SIDE;
            across * self.groups.1 * channel.sampling.1 * SIDE
        };
        let all = self.channels.iter().map(of);
        (all.clone().sum(), all.max().unwrap_or_default())
    }

    /// An empty plane for each channel.
    pub(super) fn planes(&self) -> Vec<Plane> {
        let of = |channel: &Channel| Plane::new(self, channel);
        self.channels.iter().map(of).collect()
    }
}

impl Channel {
    /// Copies the current quantization table at the first scan of the channel. Later tables are for other channels (T.81, B.2.4.1).
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

/// The samples of one channel. A progressive picture has coefficients until all of them are read.
pub(super) struct Plane {
    pub(super) samples: Vec<u8>,
    /// The samples of a row, including those that fill up the last group.
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

    /// The coefficients of a block that is not complete yet.
    pub(super) fn block(&mut self, x: usize, y: usize) -> &mut Block {
        &mut self.coefficients[y * (self.stride / SIDE) + x]
    }

    /// Turns a complete block into samples.
    #[inline(always)]
    pub(super) fn put(&mut self, block: &Block, x: usize, y: usize) {
        let at = (y * self.stride + x) * SIDE;
        if let Some(multipliers) = &self.multipliers {
            multipliers.samples(block, &mut self.samples[at..], self.stride);
        }
    }

    /// Turns all stored coefficients into samples, and frees them.
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

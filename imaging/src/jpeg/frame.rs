//! Reads the frame header (T.81, B.2.2), which describes the size of the image and its channels.

use super::super::buffer::buffer;
use super::idct::{BLOCK_SIDE, Block, Quantizers};
use super::{ColorModel, DAMAGED, Reason};

/// The size of the image and its channels, from the frame header.
pub(super) struct Frame {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) progressive: bool,
    pub(super) channels: Vec<Channel>,
    /// The number of MCUs across and down. An MCU (T.81: minimum coded unit) is a group of blocks of all channels.
    pub(super) mcu_counts: (usize, usize),
    /// The largest sampling factors of all channels, across and down.
    pub(super) max_sampling: (usize, usize),
}

/// A channel of the image (T.81: component).
pub(super) struct Channel {
    pub(super) id: u8,
    /// The number of blocks in an MCU, across and down (T.81: sampling factors).
    pub(super) sampling: (usize, usize),
    /// The number of samples across and down, without those that fill up the last MCU.
    pub(super) size_in_samples: (usize, usize),
    /// Which of the four quantization tables the channel uses.
    quantization_slot: usize,
    /// The factors of the coefficients. `None` before the first scan of the channel.
    quantizers: Option<Quantizers>,
    /// For each coefficient the number of low bits that are not read yet. `None` before the coefficient's first scan.
    pub(super) unread_low_bits: [Option<u8>; 64],
}

impl Frame {
    /// Reads the header.
    pub(super) fn new(data: &[u8], progressive: bool) -> Result<Self, Reason> {
        let [precision, h1, h0, w1, w0, count, channels @ ..] = data else {
            return Err(DAMAGED);
        };
        if *precision != 8 {
            return Err("its channels have more than eight bits, which few programs read");
        }
        let [width, height] = [[*w1, *w0], [*h1, *h0]].map(u16::from_be_bytes);
        if width == 0 || height == 0 {
            return Err("the file has no pixels");
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err("its number of channels is not one, three or four");
        }
        if channels.len() != usize::from(*count) * 3 {
            return Err(DAMAGED);
        }
        let mut channels: Vec<Channel> = (channels.as_chunks::<3>().0.iter())
            .map(|[id, sampling, quantization_slot]| Channel {
                id: *id,
                sampling: (usize::from(sampling >> 4), usize::from(sampling & 15)),
                size_in_samples: (0, 0),
                quantization_slot: usize::from(*quantization_slot),
                quantizers: None,
                unread_low_bits: [None; 64],
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
            size_in_samples,
            ..
        } in &mut channels
        {
            if max_sampling.0 % *h != 0 || max_sampling.1 % *v != 0 {
                return Err("the sizes of its channels do not fit together");
            }
            *size_in_samples = (
                (usize::from(width) * *h).div_ceil(max_sampling.0),
                (usize::from(height) * *v).div_ceil(max_sampling.1),
            );
        }
        Ok(Self {
            width: width.into(),
            height: height.into(),
            progressive,
            channels,
            mcu_counts: (
                usize::from(width).div_ceil(max_sampling.0 * BLOCK_SIDE),
                usize::from(height).div_ceil(max_sampling.1 * BLOCK_SIDE),
            ),
            max_sampling,
        })
    }

    /// The color model, by the rules of libjpeg. `adobe_transform` is the transform flag of Adobe's segment.
    pub(super) fn color_model(&self, has_jfif: bool, adobe_transform: Option<u8>) -> ColorModel {
        let ids: Vec<u8> = self.channels.iter().map(|channel| channel.id).collect();
        match (ids.len(), adobe_transform) {
            (1, _) => ColorModel::Gray,
            (3, _) if has_jfif => ColorModel::YCbCr,
            (3, Some(0)) => ColorModel::Rgb,
            (3, None) if ids == *b"RGB" => ColorModel::Rgb,
            (3, _) => ColorModel::YCbCr,
            (_, None | Some(0)) => ColorModel::Cmyk,
            _ => ColorModel::Ycck,
        }
    }

    /// Whether all bits of all coefficients were read.
    pub(super) fn is_complete(&self) -> bool {
        let mut bits = self
            .channels
            .iter()
            .flat_map(|channel| &channel.unread_low_bits);
        bits.all(|bits| *bits == Some(0))
    }

    /// The number of samples of all channels together, and of the largest channel. Samples that fill up the last MCU
    /// are included.
    pub(super) fn sample_counts(&self) -> (usize, usize) {
        let count = |channel: &Channel| {
            let across = self.mcu_counts.0 * channel.sampling.0 * BLOCK_SIDE;
            across * self.mcu_counts.1 * channel.sampling.1 * BLOCK_SIDE
        };
        let all = self.channels.iter().map(count);
        (all.clone().sum(), all.max().unwrap_or_default())
    }

    /// An empty plane for each channel.
    pub(super) fn planes(&self) -> Vec<Plane> {
        let new_plane = |channel: &Channel| Plane::new(self, channel);
        self.channels.iter().map(new_plane).collect()
    }
}

impl Channel {
    /// Copies the current quantization table if this is the first scan of the channel. Later tables are for other
    /// channels (T.81, B.2.4.1).
    pub(super) fn begin_scan(&mut self, tables: &[Option<[u16; 64]>; 4]) -> Result<(), Reason> {
        if self.quantizers.is_none() {
            let table = tables
                .get(self.quantization_slot)
                .and_then(Option::as_ref)
                .ok_or(DAMAGED)?;
            self.quantizers = Some(Quantizers::new(table));
        }
        Ok(())
    }
}

/// The samples of one channel. While a progressive image is read, the plane holds its coefficients instead.
pub(super) struct Plane {
    pub(super) samples: Vec<u8>,
    /// The number of samples of a row, including those that fill up the last MCU.
    pub(super) stride: usize,
    coefficients: Vec<Block>,
    /// Those of the channel. `None` before its first scan.
    quantizers: Option<Quantizers>,
}

impl Plane {
    fn new(frame: &Frame, channel: &Channel) -> Self {
        let across = frame.mcu_counts.0 * channel.sampling.0;
        let down = frame.mcu_counts.1 * channel.sampling.1;
        let (samples, coefficients) = if frame.progressive {
            (Vec::new(), vec![Block::EMPTY; across * down])
        } else {
            (buffer(across * down * 64), Vec::new())
        };
        Self {
            samples,
            stride: across * BLOCK_SIDE,
            coefficients,
            quantizers: None,
        }
    }

    /// Takes over the quantizers of the channel, before its scan is read.
    pub(super) fn begin_scan(&mut self, channel: &Channel) {
        self.quantizers.clone_from(&channel.quantizers);
    }

    /// The coefficients of a block that is not complete yet. `x` and `y` count blocks.
    pub(super) fn block(&mut self, x: usize, y: usize) -> &mut Block {
        &mut self.coefficients[y * (self.stride / BLOCK_SIDE) + x]
    }

    /// Turns a complete block into samples. `x` and `y` count blocks.
    #[inline(always)]
    pub(super) fn put_block(&mut self, block: &Block, x: usize, y: usize) {
        let at = (y * self.stride + x) * BLOCK_SIDE;
        // There are quantizers, because only blocks of a scan are complete.
        if let Some(quantizers) = &self.quantizers {
            quantizers.write_samples(block, &mut self.samples[at..], self.stride);
        }
    }

    /// Turns all stored coefficients into samples, and frees the coefficients.
    pub(super) fn transform_stored_blocks(&mut self) {
        let blocks = std::mem::take(&mut self.coefficients);
        if !blocks.is_empty() {
            self.samples = buffer(blocks.len() * 64);
        }
        let across = self.stride / BLOCK_SIDE;
        for (at, block) in blocks.iter().enumerate() {
            self.put_block(block, at % across, at / across);
        }
    }
}

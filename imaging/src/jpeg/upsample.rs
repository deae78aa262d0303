//! Brings all channels to the size of the image, row by row, and converts them to pixels.
//!
//! This works as in libjpeg-turbo. A channel with half the samples in a direction is interpolated (3/4 of the nearer
//! sample and 1/4 of the farther sample). With other factors the samples are repeated.

use fearless_simd::{Level, dispatch};

use super::ColorModel;
use super::frame::{Channel, Frame, Plane};

/// Makes all pixels, row by row, from the samples of the channels, and calls `each` for each row.
pub(super) fn to_rows(
    frame: &Frame,
    model: ColorModel,
    planes: &[Plane],
    mut each: impl FnMut(&[u8]),
) {
    let (width, height) = (frame.width as usize, frame.height as usize);
    // One row of pixels.
    let mut line = vec![0; width * planes.len()];
    // One row of each channel. The last sample of a row is enlarged to up to four values, of which three may be beyond
    // the width.
    let mut rows = vec![vec![0; width + 3]; planes.len()];
    let mut sums = Vec::with_capacity(width);
    // The vector instructions that this machine has. `dispatch!` runs the code that is compiled for them.
    let vector_level = Level::new();
    for y in 0..height {
        dispatch!(vector_level, _simd => {
            for ((plane, channel), row) in planes.iter().zip(&frame.channels).zip(&mut rows) {
                let factors = (
                    frame.max_sampling.0 / channel.sampling.0,
                    frame.max_sampling.1 / channel.sampling.1,
                );
                upsample_row(plane, channel, factors, y, &mut sums, row);
            }
            write_pixels(model, &rows, &mut line);
        });
        each(&line);
    }
}

/// Converts a row of all channels to pixels.
#[inline(always)]
fn write_pixels(model: ColorModel, rows: &[Vec<u8>], line: &mut [u8]) {
    match (model, rows) {
        (ColorModel::YCbCr, [luma, cb, cr]) => {
            let pixels = line.as_chunks_mut::<3>().0.iter_mut();
            for (((pixel, luma), cb), cr) in pixels.zip(luma).zip(cb).zip(cr) {
                *pixel = rgb(*luma, *cb, *cr);
            }
        }
        // Ink is the inverse of brightness, and the file stores the inverse of ink. For colors these two cancel out, so
        // only black has to be inverted here.
        (ColorModel::Ycck, [luma, cb, cr, black]) => {
            let pixels = line.as_chunks_mut::<4>().0.iter_mut();
            for ((((pixel, luma), cb), cr), black) in pixels.zip(luma).zip(cb).zip(cr).zip(black) {
                let [r, g, b] = rgb(*luma, *cb, *cr);
                *pixel = [r, g, b, 255 - black];
            }
        }
        _ => {
            let inverted = if model == ColorModel::Cmyk { 255 } else { 0 };
            for (at, row) in rows.iter().enumerate() {
                let samples = line.iter_mut().skip(at).step_by(rows.len());
                for (sample, value) in samples.zip(row) {
                    *sample = value ^ inverted;
                }
            }
        }
    }
}

/// Writes row `y` of the image for one channel. `factors` are the factors by which the channel is enlarged, across and
/// down. `sums` is scratch space.
#[inline(always)]
fn upsample_row(
    plane: &Plane,
    channel: &Channel,
    factors: (usize, usize),
    y: usize,
    sums: &mut Vec<u16>,
    out: &mut [u8],
) {
    let (width, height) = channel.size_in_samples;
    let row = |y: usize| &plane.samples[y.min(height - 1) * plane.stride..][..width];
    let near = row(y / factors.1);
    // The next nearest row, for a height that is doubled: the row above for the upper half of a sample, the row below
    // for the lower half.
    let far = if y.is_multiple_of(2) {
        row((y / 2).saturating_sub(1))
    } else {
        row(y / 2 + 1)
    };
    match factors {
        (1, 1) => out[..width].copy_from_slice(near),
        (1, 2) => {
            // 1 and 2 in turn, as in libjpeg-turbo, so that rounding errors do not add up.
            let rounding = 1 + (y % 2) as u16;
            for ((out, near), far) in out.iter_mut().zip(near).zip(far) {
                *out = ((u16::from(*near) * 3 + u16::from(*far) + rounding) >> 2) as u8;
            }
        }
        // Like libjpeg-turbo, this interpolates across only if there are more than two samples.
        (2, 1) if width > 2 => {
            sums.clear();
            sums.extend(near.iter().map(|near| u16::from(*near)));
            double_width::<2>(sums, out, [1, 2]);
        }
        (2, 2) if width > 2 => {
            sums.clear();
            sums.extend(
                (near.iter().zip(far)).map(|(near, far)| u16::from(*near) * 3 + u16::from(*far)),
            );
            double_width::<4>(sums, out, [8, 7]);
        }
        (across, _) => {
            for (out, near) in out.chunks_mut(across).zip(near) {
                out.fill(*near);
            }
        }
    }
}

/// Doubles the width. Each result is 3/4 of a sample and 1/4 of its nearer neighbor. In the left and the right half of
/// a sample, `left` and `right` are added before rounding down. They differ, so that rounding errors do not add up.
/// `BITS` is 2 if `sums` are samples, and 4 if they are sums of two rows with the weights 3 and 1.
#[inline(always)]
fn double_width<const BITS: u16>(sums: &[u16], out: &mut [u8], [left, right]: [u16; 2]) {
    let pairs = out.as_chunks_mut::<2>().0;
    let last = sums.len() - 1;
    let mix = |near: u16, far: u16, rounding: u16| ((near * 3 + far + rounding) >> BITS) as u8;
    for (pair, three) in pairs[1..].iter_mut().zip(sums.windows(3)) {
        *pair = [
            mix(three[1], three[0], left),
            mix(three[1], three[2], right),
        ];
    }
    pairs[0] = [mix(sums[0], sums[0], left), mix(sums[0], sums[1], right)];
    if let Some(pair) = pairs.get_mut(last) {
        *pair = [
            mix(sums[last], sums[last - 1], left),
            mix(sums[last], sums[last], right),
        ];
    }
}

/// Converts YCbCr to RGB by the weights of ITU-R BT.601 (JFIF 1.02), in the fixed-point numbers of libjpeg.
#[inline(always)]
fn rgb(luma: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (luma, cb, cr) = (i32::from(luma), i32::from(cb) - 128, i32::from(cr) - 128);
    [
        luma + ((91_881 * cr + 32_768) >> 16),
        luma + ((-22_554 * cb - 46_802 * cr + 32_768) >> 16),
        luma + ((116_130 * cb + 32_768) >> 16),
    ]
    .map(|level| level.clamp(0, 255) as u8)
}

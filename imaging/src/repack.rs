//! A PNG whose pixels are delivered as they are keeps its compressed pixels: writing them anew would take as long as all
//! else together. It has been decoded whole by then, so they are good, and nothing but them is taken over.

use super::marks::chunk;

/// The same picture with its header and its pixels only, where they are stored as we would store them: eight bits of RGB, or
/// of RGBA when `has_alpha`, rows in order, compressed at least by a third.
pub(super) fn repack(png: &[u8], has_alpha: bool) -> Option<Vec<u8>> {
    let colour = if has_alpha { 6 } else { 2 };
    let mut packed = Vec::with_capacity(png.len());
    packed.extend(png.get(..8)?);
    let (mut rest, mut raw, mut stored) = (&png[8..], 0, 0);
    loop {
        let length = u32::from_be_bytes(*rest.first_chunk()?) as usize;
        let whole = rest.get(..length.checked_add(12)?)?;
        match whole.get(4..8)? {
            b"IHDR" => {
                let [width, height] =
                    [8, 12].map(|at| whole.get(at..at + 4).and_then(|side| side.first_chunk()));
                let row = u32::from_be_bytes(*width?) as usize * if has_alpha { 4 } else { 3 };
                raw = u32::from_be_bytes(*height?) as usize * row;
                if whole.get(16..21)? != [8, colour, 0, 0, 0] {
                    return None;
                }
                packed.extend(whole);
            }
            b"IDAT" => {
                stored += length;
                packed.extend(whole);
            }
            b"IEND" => {
                chunk(&mut packed, *b"IEND", &[]);
                return (stored * 3 <= raw * 2).then_some(packed);
            }
            _ => {}
        }
        rest = &rest[whole.len()..];
    }
}

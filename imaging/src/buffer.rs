//! Memory for the samples of an image.

/// A buffer of this length, for samples that replace what it holds.
///
/// It is not filled with zeros, because the allocator takes large zeroed memory anew from the system, page by page. That
/// costs several times as much as to fill memory that was used before.
pub(super) fn buffer<T: From<u8> + Clone>(len: usize) -> Vec<T> {
    let not_zero = T::from(128);
    vec![not_zero; len]
}

//! The limits on the files that are opened.

/// The longest file, in bytes.
pub(super) const MAX_FILE_BYTES: usize = 64 << 20;
/// The most memory that decoded pixels may take, in bytes: enough for 64 megapixels of RGBA with 8 bits
/// a channel.
pub(super) const MAX_DECODED_BYTES: usize = 256 << 20;

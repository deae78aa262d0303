//! A file in the bucket, as rows of artifacts, calls and uploads describe it.

use crate::generation::image::{MediaType, Pixels};

/// An image file in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// Key in the bucket.
    pub object_key: String,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Size of the file, in bytes.
    pub bytes: i64,
    /// Encoding of the file.
    pub media_type: MediaType,
    /// Width and height.
    pub pixels: Pixels,
}

//! Finished pictures.

use bytes::Bytes;
use domain::generation::image::{MediaType, Pixels};

/// Everything that is made of one original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The picture that the customer pays for.
    pub rendition: Rendition,
    /// A small copy for lists.
    pub thumbnail: Rendition,
    /// The SHA-256 of the content credentials (C2PA) in the original, if it has any.
    pub c2pa: Option<[u8; 32]>,
}

/// An encoded picture, ready for the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendition {
    /// The encoded file.
    pub bytes: Bytes,
    /// Its size. For a rendition exactly the size of the recipe.
    pub pixels: Pixels,
    /// The media type, as sent in `Content-Type`.
    pub media_type: MediaType,
}

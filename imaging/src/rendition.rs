//! The images that this crate makes.

use bytes::Bytes;
use domain::generation::image::{MediaType, Pixels};

/// Everything that is made from one original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The image that the customer pays for.
    pub rendition: Rendition,
    /// A small copy for lists.
    pub thumbnail: Rendition,
    /// The SHA-256 of the content credentials (C2PA) in the original, if it has any.
    pub c2pa: Option<[u8; 32]>,
}

/// An encoded image, ready for the bucket: a rendition, a thumbnail or a cleaned upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendition {
    /// The encoded file.
    pub bytes: Bytes,
    /// The size of the image. For [`Rendered::rendition`] this is exactly the size of the recipe.
    pub pixels: Pixels,
    /// The media type, as sent in `Content-Type`.
    pub media_type: MediaType,
}

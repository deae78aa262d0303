//! What the bucket tells about its objects.

use bytes::Bytes;
use object_store::ObjectMeta;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

/// Hash and size of an object that is in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// SHA-256 of the object's bytes.
    pub sha256: [u8; 32],
    /// How many bytes the object has.
    pub bytes: i64,
}

impl StoredObject {
    /// Hashes the bytes of an object.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            sha256: Sha256::digest(bytes).into(),
            bytes: length(bytes),
        }
    }
}

/// The number of bytes, in the type of the database's columns.
pub(super) fn length(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).expect("no allocation is longer than isize::MAX")
}

/// A part of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The bytes of the part.
    pub bytes: Bytes,
    /// How many bytes the whole object has.
    pub whole: u64,
}

/// An object in a list of the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// The key of the object. In a folder this is the path of the file, relative to the folder.
    pub key: String,
    /// The size of the object, in bytes.
    pub bytes: u64,
    /// When the object was written, on the bucket's clock.
    pub modified: OffsetDateTime,
    /// Whether it is an object, or another entry of a folder.
    pub kind: FileKind,
}

/// What kind of entry of a bucket this is. At S3 and Google Cloud Storage all entries are objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// An object. In a folder this is a plain file.
    Object,
    /// A symbolic link.
    SymbolicLink,
    /// A pipe, a socket or a device.
    Special,
}

impl FileKind {
    /// The kind as words, for messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Object => "a file",
            Self::SymbolicLink => "a symbolic link",
            Self::Special => "a pipe, a socket or a device",
        }
    }
}

impl From<ObjectMeta> for ListedObject {
    fn from(object: ObjectMeta) -> Self {
        let seconds = object.last_modified.timestamp();
        Self {
            key: object.location.into(),
            bytes: object.size,
            // A time out of range counts as very old. Then the object's age protects it from no
            // check, and only the rows in Postgres decide whether it is an orphan.
            modified: OffsetDateTime::from_unix_timestamp(seconds)
                .unwrap_or(OffsetDateTime::UNIX_EPOCH),
            kind: FileKind::Object,
        }
    }
}

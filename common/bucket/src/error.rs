//! Errors of a bucket.

use std::io;

use super::object::FileKind;

/// Why an operation on a bucket failed.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// A new object has the key of an existing one with other bytes.
    #[error("another object exists at {0}, and no key is written twice")]
    TakenByAnother(String),
    /// An object that was just written has other bytes, by the store's checksum or when it is read
    /// back.
    #[error(
        "the object that was written to {0} has other bytes when it is read; it was removed again"
    )]
    Garbled(String),
    /// An object was deleted while it was being read.
    #[error("{0} was deleted while it was read")]
    Deleted(String),
    /// The store does not support conditional writes.
    #[error(
        "this store overwrites objects: it does not support `If-None-Match`. Use one that does"
    )]
    Overwrites,
    /// An object is larger than the caller allows.
    #[error("{key} has {bytes} bytes; at most {most} are read")]
    TooLarge {
        /// The object.
        key: String,
        /// Its size.
        bytes: u64,
        /// The allowed size.
        most: u64,
    },
    /// The store failed or cannot be reached.
    #[error(transparent)]
    Store(#[from] object_store::Error),
    /// The folder of the bucket, or a folder in it, cannot be used.
    #[error("{0} is not a folder that this process can use: {1}")]
    Folder(String, io::Error),
    /// A file in the folder of the bucket cannot be written or read.
    #[error("{0} cannot be written or read: {1}")]
    File(String, io::Error),
    /// The path of an object contains something other than folders and a file.
    #[error("{path} is {kind}, which is not followed, so {key} is not an object", kind = kind.word())]
    Irregular {
        /// The object.
        key: String,
        /// The path of the entry that is there instead.
        path: String,
        /// The kind of that entry.
        kind: FileKind,
    },
    /// The bucket belongs to another database, or lacks its marker. The text is that of
    /// [`domain::ownership::Ownership::problem`].
    #[error("{0}")]
    NotOurs(&'static str),
    /// The check of which database the bucket belongs to failed.
    #[error(transparent)]
    Unsure(domain::ownership::Unknown),
}

impl BucketError {
    /// Whether a folder does not exist, or is not a folder.
    pub fn is_no_folder(&self) -> bool {
        let missing = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
        matches!(self, Self::Folder(_, error) if missing.contains(&error.kind()))
    }

    /// Whether the same operation may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            // The object was removed again, so it can be written again.
            Self::Garbled(_) => true,
            // The bucket may become available.
            Self::Store(_) | Self::Folder(..) | Self::File(..) => true,
            // An operator may correct the setting, or mount the volume.
            Self::NotOurs(_) | Self::Unsure(_) => true,
            Self::TakenByAnother(_)
            | Self::Overwrites
            | Self::Deleted(_)
            | Self::TooLarge { .. }
            | Self::Irregular { .. } => false,
        }
    }
}

//! The spool: objects by key, written once, and links to them that are signed and expire.

mod address;
mod folder;
mod link;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::signer::{Method, SignedUrlOptions};
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

pub use address::{Address, BadAddress};
use address::{Opened, Signing};
use folder::Folder;
pub use folder::{Survey, survey};
pub use link::{BadLink, LINKS, Signed, SigningKeys};

use domain::file_name::attachment;

/// What a key begins with that an examination made. Nobody names it.
pub const PROBE_PREFIX: &str = "examined/";
/// The object that says whose the bucket is; see `common::files::ownership`.
pub const MARKER: &str = "platen-bucket";
/// A marker has no more bytes.
const MARKER_BYTES: u64 = 200;

/// Where objects are kept.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// Where it is a folder.
    folder: Option<Folder>,
    signing: Option<Signing>,
    keys: SigningKeys,
}

/// Where an object can be had by whoever holds the link, for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Path and query at our own api.
    Ours(String),
    /// At the store itself.
    Store(String),
}

/// What a browser is told of a file: its type, and what it is called when it is kept.
#[derive(Clone, Copy, Debug)]
pub struct ContentDisposition<'a> {
    pub media_type: &'a str,
    pub file_name: &'a str,
}

/// An object that was written, or stood there already with the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub sha256: [u8; 32],
    pub bytes: i64,
}

impl Stored {
    fn of(bytes: &[u8]) -> Self {
        Self {
            sha256: Sha256::digest(bytes).into(),
            bytes: length(bytes),
        }
    }
}

/// How many bytes these are, as rows count them.
fn length(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).expect("no allocation is longer than isize::MAX")
}

/// A part of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub bytes: Bytes,
    /// How many bytes the whole object has.
    pub whole: u64,
}

/// An object as the bucket lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub bytes: u64,
    /// When it was written, on the bucket's clock.
    pub modified: OffsetDateTime,
    pub kind: FileKind,
}

/// What lies in a bucket. Where it is not a folder, all are objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Object,
    SymbolicLink,
    /// A pipe, a socket or a device.
    Special,
}

impl FileKind {
    /// In words.
    pub fn word(self) -> &'static str {
        match self {
            Self::Object => "a file",
            Self::SymbolicLink => "a symbolic link",
            Self::Special => "a pipe, a socket or a device",
        }
    }
}

impl From<ObjectMeta> for Listed {
    fn from(object: ObjectMeta) -> Self {
        let seconds = object.last_modified.timestamp();
        Self {
            key: object.location.into(),
            bytes: object.size,
            // Out of all range: then it is as old as can be told, and its row alone decides.
            modified: OffsetDateTime::from_unix_timestamp(seconds)
                .unwrap_or(OffsetDateTime::UNIX_EPOCH),
            kind: FileKind::Object,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("another object stands at {0} already, and no key is written twice")]
    TakenByAnother(String),
    #[error("what was written to {0} could not be read back as it was; it was removed again")]
    Garbled(String),
    #[error("{0} was deleted while it was read")]
    Deleted(String),
    #[error("objects are overwritten in it: it does not know `If-None-Match`")]
    Overwrites,
    #[error("{key} has {bytes} bytes, at most {most} are read")]
    TooLarge { key: String, bytes: u64, most: u64 },
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error("{0} is not a folder this process can use: {1}")]
    Folder(String, io::Error),
    #[error("{path} is {kind}, which is not followed: {key} is no object", kind = kind.word())]
    Irregular {
        key: String,
        path: String,
        kind: FileKind,
    },
    #[error("{0}")]
    NotOurs(&'static str),
    #[error(transparent)]
    Unsure(domain::ownership::Unknown),
}

impl BucketError {
    /// Whether the folder itself is not there.
    pub fn is_no_folder(&self) -> bool {
        let missing = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
        matches!(self, Self::Folder(_, error) if missing.contains(&error.kind()))
    }

    /// Whether the same may be tried again: the bucket may be back then.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(_) | Self::Garbled(_) | Self::Folder(..) => true,
            Self::NotOurs(_) | Self::Unsure(_) => true,
            Self::TakenByAnother(_)
            | Self::Overwrites
            | Self::Deleted(_)
            | Self::TooLarge { .. }
            | Self::Irregular { .. } => false,
        }
    }
}

impl Bucket {
    /// Opens the bucket at an address. A folder must exist: one that is missing is perhaps not mounted.
    pub fn open(address: &Address, keys: impl Into<SigningKeys>) -> Result<Self, BucketError> {
        let Opened { store, signing } = address.open()?;
        let folder = match address {
            Address::Folder(folder) => Some(Folder::new(folder)),
            Address::S3(_) | Address::Gcs(_) => None,
        };
        Ok(Self {
            store,
            folder,
            signing,
            keys: keys.into(),
        })
    }

    /// An object's key as the store has it, where it may be looked at.
    async fn admitted(&self, key: &str) -> Result<Key, BucketError> {
        let key = Key::from(key);
        if let Some(folder) = &self.folder {
            folder.admit(&key).await?;
        }
        Ok(key)
    }

    /// Without links to the store itself: for clients that do not reach it. The api gives its objects out then.
    #[must_use]
    pub fn serve_through_api(mut self) -> Self {
        self.signing = None;
        self
    }

    /// Whether it is a folder of this machine.
    pub fn is_folder(&self) -> bool {
        self.folder.is_some()
    }

    /// Whether its store signs links, to be read and to be written to.
    pub fn signs_links(&self) -> bool {
        self.signing.is_some()
    }

    /// Writes an object that must not exist, and reads it back. Writing the same bytes again is success, so a write
    /// whose answer was lost may be repeated.
    pub async fn put_new(&self, key: &str, bytes: Bytes) -> Result<Stored, BucketError> {
        let written = Stored::of(&bytes);
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let (location, payload) = (self.admitted(key).await?, PutPayload::from(bytes));
        let was_there = match self.store.put_opts(&location, payload, options).await {
            Ok(_) => None,
            Err(error @ object_store::Error::AlreadyExists { .. }) => Some(error),
            Err(error) => return Err(error.into()),
        };
        match (self.measure(key).await?, was_there) {
            (Some(read), _) if read == written => Ok(written),
            (Some(_), Some(_)) => Err(BucketError::TakenByAnother(key.to_owned())),
            // Another write of it was under way and came to nothing.
            (None, Some(error)) => Err(error.into()),
            (_, None) => {
                // Nobody else can have written it: so it may be written once more.
                self.delete(key).await?;
                Err(BucketError::Garbled(key.to_owned()))
            }
        }
    }

    /// Whether it can be reached, written, read and emptied, and keeps what it has: for `platen doctor`, and for workers
    /// after it was away.
    pub async fn probe(&self) -> Result<(), BucketError> {
        let key = format!("{PROBE_PREFIX}{}", uuid::Uuid::now_v7());
        self.put_new(&key, Bytes::from_static(b"one")).await?;
        let overwritten = self.put_new(&key, Bytes::from_static(b"two")).await;
        self.delete(&key).await?;
        match overwritten {
            Err(BucketError::TakenByAnother(_)) => Ok(()),
            Ok(_) => Err(BucketError::Overwrites),
            Err(error) => Err(error),
        }
    }

    /// What the marker says: whose bucket this is. `None`: it has none.
    pub async fn marker(&self) -> Result<Option<String>, BucketError> {
        let marker = self.get_at_most(MARKER, MARKER_BYTES).await?;
        Ok(marker.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    /// Writes the marker; only where there is none, or over another, as `replace` says.
    pub async fn write_marker(&self, says: &str, replace: bool) -> Result<(), BucketError> {
        let mode = if replace {
            PutMode::Overwrite
        } else {
            PutMode::Create
        };
        let options = PutOptions {
            mode,
            ..PutOptions::default()
        };
        let location = self.admitted(MARKER).await?;
        let payload = PutPayload::from(format!("{says}\n"));
        match self.store.put_opts(&location, payload, options).await {
            Ok(_) => {}
            Err(object_store::Error::AlreadyExists { .. }) => {
                return Err(BucketError::TakenByAnother(MARKER.to_owned()));
            }
            Err(error) => return Err(error.into()),
        }
        match self.marker().await? {
            Some(read) if read == says => Ok(()),
            _ => Err(BucketError::Garbled(MARKER.to_owned())),
        }
    }

    /// The whole object, or `None` when there is none.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, BucketError> {
        self.get_at_most(key, u64::MAX).await
    }

    /// As [`Self::get`], of what somebody else wrote: more than `most` bytes are an error, and not read.
    pub async fn get_at_most(&self, key: &str, most: u64) -> Result<Option<Bytes>, BucketError> {
        match self.store.get(&self.admitted(key).await?).await {
            Ok(found) if found.meta.size > most => Err(BucketError::TooLarge {
                key: key.to_owned(),
                bytes: found.meta.size,
                most,
            }),
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// At most `most` bytes of an object from `first` on, and how large the whole is; `None` when there is none. A part that begins
    /// behind the end is an error.
    pub async fn part(
        &self,
        key: &str,
        first: u64,
        most: u64,
    ) -> Result<Option<Part>, BucketError> {
        let range = GetRange::Bounded(first..first.saturating_add(most));
        let options = GetOptions {
            range: Some(range),
            ..GetOptions::default()
        };
        match self
            .store
            .get_opts(&self.admitted(key).await?, options)
            .await
        {
            Ok(found) => Ok(Some(Part {
                whole: found.meta.size,
                bytes: found.bytes().await?,
            })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Size and hash of an object as it is now, or `None` when there is none. It is never whole in memory.
    pub async fn measure(&self, key: &str) -> Result<Option<Stored>, BucketError> {
        let mut chunks = match self.store.get(&self.admitted(key).await?).await {
            Ok(found) => found.into_stream(),
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (mut sha256, mut bytes) = (Sha256::new(), 0);
        while let Some(chunk) = chunks.try_next().await? {
            sha256.update(&chunk);
            bytes += length(&chunk);
        }
        Ok(Some(Stored {
            sha256: sha256.finalize().into(),
            bytes,
        }))
    }

    /// Every object, in no order that matters. Objects that come and go meanwhile may be in it or not. Who asks again
    /// after the end is told so again.
    pub fn list(&self) -> BoxStream<'static, Result<Listed, BucketError>> {
        if let Some(folder) = &self.folder {
            return folder.list().fuse().boxed();
        }
        let objects = self.store.list(None);
        objects
            .map_ok(Listed::from)
            .map_err(Into::into)
            .fuse()
            .boxed()
    }

    /// Every object whose key begins with `prefix`, which ends in `/`; otherwise as [`Self::list`].
    pub fn list_under(&self, prefix: &str) -> BoxStream<'static, Result<Listed, BucketError>> {
        let objects = self.store.list(Some(&Key::from(prefix)));
        objects
            .map_ok(Listed::from)
            .map_err(Into::into)
            .fuse()
            .boxed()
    }

    /// Removes an object; one that is not there is no error.
    pub async fn delete(&self, key: &str) -> Result<(), BucketError> {
        match self.store.delete(&self.admitted(key).await?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A link to an object, good for `lifetime` from `now` on: at the store itself, signed by V4 (`AWS4-HMAC-SHA256` or
    /// `GOOG4-RSA-SHA256`), where it can do that; else at our own api.
    pub async fn link(
        &self,
        key: &str,
        shown: ContentDisposition<'_>,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> Result<Link, BucketError> {
        let Some(signing) = &self.signing else {
            return Ok(Link::Ours(self.our_link(
                key,
                shown.file_name,
                now,
                lifetime,
            )));
        };
        let told = [
            ("response-content-disposition", attachment(shown.file_name)),
            ("response-content-type", shown.media_type.to_owned()),
        ];
        let options = SignedUrlOptions::default().with_query(told);
        let path = signing.path(&Key::from(key));
        let url = signing
            .signer
            .signed_url_opts(Method::GET, &path, lifetime, &options);
        Ok(Link::Store(url.await?.into()))
    }

    /// Where the links of [`Self::link`] lead: scheme, host and port of the store; `None` where they are our own.
    pub fn link_origin(&self) -> Option<&str> {
        let signing = self.signing.as_ref()?;
        Some(&signing.origin)
    }

    /// A link under which an object can be put for `lifetime`, straight into the store; `None` where it signs no links.
    pub async fn link_to_put(
        &self,
        key: &str,
        lifetime: Duration,
    ) -> Result<Option<String>, BucketError> {
        let Some(signing) = &self.signing else {
            return Ok(None);
        };
        let path = signing.path(&Key::from(key));
        let url = signing.signer.signed_url(Method::PUT, &path, lifetime);
        Ok(Some(url.await?.into()))
    }

    /// The path and query of a link to our own api.
    pub fn our_link(
        &self,
        key: &str,
        file_name: &str,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> String {
        self.keys.link(key, file_name, now, lifetime)
    }

    /// Whether a link to this object is ours and still good.
    pub fn check_link(
        &self,
        key: &str,
        signed: Signed<'_>,
        now: OffsetDateTime,
    ) -> Result<(), BadLink> {
        self.keys.check(key, signed, now)
    }
}

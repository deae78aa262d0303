//! Object storage: objects by key, each written once, and signed links to them that expire.

mod address;
mod error;
mod folder;
mod link;

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
use address::{LinkSigning, OpenedBucket};
use folder::Folder;
pub use folder::{FolderState, survey};
pub use link::{BadLink, LINKS, Signed, SigningKeys};

use domain::file_name::attachment;
pub use error::BucketError;

/// What the keys of [`Bucket::probe`] begin with. No row names these objects.
pub const PROBE_PREFIX: &str = "examined/";
/// The key of the marker, which says which database the bucket belongs to; see
/// `common::files::ownership`.
pub const MARKER: &str = "platen-bucket";
/// Most bytes of a marker that are read.
const MAX_MARKER_BYTES: u64 = 200;

/// A bucket: a folder, or a bucket at S3 or Google Cloud Storage. Clones are cheap.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// The folder, where it is one.
    folder: Option<Folder>,
    /// How the store signs links; `None` where the api serves the files.
    signing: Option<LinkSigning>,
    /// The keys of links to our own api.
    keys: SigningKeys,
}

/// A link to an object. Whoever has it can read the object until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Path and query of a link to our own api.
    Local(String),
    /// URL at the store itself.
    Store(String),
}

/// What a browser is told about a file.
#[derive(Clone, Copy, Debug)]
pub struct ContentDisposition<'a> {
    /// Its media type, such as `image/png`.
    pub media_type: &'a str,
    /// The name it is saved under.
    pub file_name: &'a str,
}

/// Hash and size of an object that is in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// How many bytes it has.
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

/// The number of bytes, in the type of the database's columns.
fn length(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).expect("no allocation is longer than isize::MAX")
}

/// A part of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The part.
    pub bytes: Bytes,
    /// How many bytes the whole object has.
    pub whole: u64,
}

/// An object in a list of the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key; of a folder the path of the file in it.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written, on the bucket's clock.
    pub modified: OffsetDateTime,
    /// What it is.
    pub kind: FileKind,
}

/// What an entry of a bucket is. Except in a folder all are objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// An object; in a folder a plain file.
    Object,
    /// A symbolic link.
    SymbolicLink,
    /// A pipe, a socket or a device.
    Special,
}

impl FileKind {
    /// What it is, for messages.
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
            // A time out of range counts as very old: then only the rows decide about the object.
            modified: OffsetDateTime::from_unix_timestamp(seconds)
                .unwrap_or(OffsetDateTime::UNIX_EPOCH),
            kind: FileKind::Object,
        }
    }
}

impl Bucket {
    /// Opens the bucket at an address. `keys` sign links to our own api.
    ///
    /// # Errors
    /// The folder does not exist; it is not created, because its volume may just not be mounted. Or
    /// the settings of the store are not complete. The store itself is not asked yet.
    pub fn open(address: &Address, keys: impl Into<SigningKeys>) -> Result<Self, BucketError> {
        let OpenedBucket { store, signing } = address.open()?;
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

    /// The key in the type of the store, after the check that in a folder only plain folders lead
    /// to it.
    async fn admitted(&self, key: &str) -> Result<Key, BucketError> {
        let key = Key::from(key);
        if let Some(folder) = &self.folder {
            folder.admit(&key).await?;
        }
        Ok(key)
    }

    /// Never links to the store itself: the api serves all files. For stores that clients cannot
    /// reach.
    #[must_use]
    pub fn serve_through_api(mut self) -> Self {
        self.signing = None;
        self
    }

    /// Whether it is a folder of this machine.
    pub fn is_folder(&self) -> bool {
        self.folder.is_some()
    }

    /// Whether its store signs links, for reading and for writing.
    pub fn signs_links(&self) -> bool {
        self.signing.is_some()
    }

    /// Writes a new object, and reads it back. Writing the same bytes to the same key again is a
    /// success, so a write whose answer was lost may be repeated.
    ///
    /// # Errors
    /// The key has an object with other bytes; the bytes read back differ; or the bucket failed,
    /// and the object may have been written.
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
            // Another write of this key was in progress and failed.
            (None, Some(error)) => Err(error.into()),
            (_, None) => {
                // This call created the object, so it may delete it, and a retry can write it
                // again.
                self.delete(key).await?;
                Err(BucketError::Garbled(key.to_owned()))
            }
        }
    }

    /// Checks that objects can be written, read and deleted, and that none is overwritten: for
    /// `platen doctor`, and for workers after the bucket was unavailable.
    ///
    /// # Errors
    /// [`BucketError::Overwrites`], or the failure of a step.
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

    /// The text of the marker; `None` where the bucket has none.
    ///
    /// # Errors
    /// The bucket failed.
    pub async fn marker(&self) -> Result<Option<String>, BucketError> {
        let marker = self.get_at_most(MARKER, MAX_MARKER_BYTES).await?;
        Ok(marker.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    /// Writes the marker and reads it back. With `replace` it overwrites another marker.
    ///
    /// # Errors
    /// There is one and `replace` is not set; it reads back differently; or the bucket failed.
    pub async fn write_marker(&self, text: &str, replace: bool) -> Result<(), BucketError> {
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
        let payload = PutPayload::from(format!("{text}\n"));
        match self.store.put_opts(&location, payload, options).await {
            Ok(_) => {}
            Err(object_store::Error::AlreadyExists { .. }) => {
                return Err(BucketError::TakenByAnother(MARKER.to_owned()));
            }
            Err(error) => return Err(error.into()),
        }
        match self.marker().await? {
            Some(read) if read == text => Ok(()),
            _ => Err(BucketError::Garbled(MARKER.to_owned())),
        }
    }

    /// The whole object; `None` where there is none.
    ///
    /// # Errors
    /// The bucket failed.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, BucketError> {
        self.get_at_most(key, u64::MAX).await
    }

    /// As [`Self::get`], for objects that others may have written.
    ///
    /// # Errors
    /// The object has more than `most` bytes, and is not read; or the bucket failed.
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

    /// Up to `most` bytes of an object, beginning at byte `first`, and the size of the whole
    /// object. `None` where there is none.
    ///
    /// # Errors
    /// `first` is behind the end, or the bucket failed.
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

    /// Reads an object for its size and hash; `None` where there is none. It is never whole in
    /// memory.
    ///
    /// # Errors
    /// The bucket failed.
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

    /// Lists every object, in no certain order. Objects that are written or deleted meanwhile may
    /// be in the list or not. The stream may be polled after its end.
    pub fn list(&self) -> BoxStream<'static, Result<ListedObject, BucketError>> {
        if let Some(folder) = &self.folder {
            return folder.list().fuse().boxed();
        }
        let objects = self.store.list(None);
        objects
            .map_ok(ListedObject::from)
            .map_err(Into::into)
            .fuse()
            .boxed()
    }

    /// Lists every object whose key begins with `prefix`, which ends with `/`; otherwise as
    /// [`Self::list`].
    pub fn list_under(
        &self,
        prefix: &str,
    ) -> BoxStream<'static, Result<ListedObject, BucketError>> {
        let objects = self.store.list(Some(&Key::from(prefix)));
        objects
            .map_ok(ListedObject::from)
            .map_err(Into::into)
            .fuse()
            .boxed()
    }

    /// Deletes an object. It is no error if there is none.
    ///
    /// # Errors
    /// The bucket failed.
    pub async fn delete(&self, key: &str) -> Result<(), BucketError> {
        match self.store.delete(&self.admitted(key).await?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A link to an object that works for `lifetime` from `now` on: at the store itself where it
    /// signs links (V4 signatures, `AWS4-HMAC-SHA256` or `GOOG4-RSA-SHA256`), otherwise at our own
    /// api.
    ///
    /// # Errors
    /// The store's credentials cannot be had.
    pub async fn link(
        &self,
        key: &str,
        disposition: ContentDisposition<'_>,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> Result<Link, BucketError> {
        let Some(signing) = &self.signing else {
            return Ok(Link::Local(self.local_link(
                key,
                disposition.file_name,
                now,
                lifetime,
            )));
        };
        let headers = [
            (
                "response-content-disposition",
                attachment(disposition.file_name),
            ),
            ("response-content-type", disposition.media_type.to_owned()),
        ];
        let options = SignedUrlOptions::default().with_query(headers);
        let path = signing.path(&Key::from(key));
        let url = signing
            .signer
            .signed_url_opts(Method::GET, &path, lifetime, &options);
        Ok(Link::Store(url.await?.into()))
    }

    /// The origin of the links of [`Self::link`]: scheme, host and port of the store. `None` where
    /// they lead to our own api.
    pub fn link_origin(&self) -> Option<&str> {
        let signing = self.signing.as_ref()?;
        Some(&signing.origin)
    }

    /// A link for writing an object directly into the store for `lifetime`; `None` where it signs
    /// no links.
    ///
    /// # Errors
    /// The store's credentials cannot be had.
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

    /// Path and query of a link to our own api that works for `lifetime` from `now` on.
    pub fn local_link(
        &self,
        key: &str,
        file_name: &str,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> String {
        self.keys.link(key, file_name, now, lifetime)
    }

    /// Checks a link to this object at our own api.
    ///
    /// # Errors
    /// It is not ours, has expired, or works for longer than any link may.
    pub fn check_link(
        &self,
        key: &str,
        signed: Signed<'_>,
        now: OffsetDateTime,
    ) -> Result<(), BadLink> {
        self.keys.check(key, signed, now)
    }
}

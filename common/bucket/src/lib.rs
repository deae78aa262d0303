//! Object storage: objects by key, and signed links to them that expire. Each key is written only
//! once, except that of the marker.

mod address;
mod checksum;
mod direct;
mod error;
mod folder;
mod link;
mod object;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::signer::{Method, SignedUrlOptions};
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

pub use address::{Address, BadAddress};
use address::{LinkSigning, OpenedBucket};
use checksum::{Algorithm, Verdict};
use folder::Folder;
pub use folder::{FolderState, survey};
pub use link::{BadLink, LINK_LIFETIMES, Signed, SigningKeys};
use object::length;
pub use object::{FileKind, ListedObject, Part, StoredObject};

use domain::file_name::attachment;
pub use error::BucketError;

/// The prefix of the keys that [`Bucket::probe`] writes. No row names these objects.
pub const PROBE_PREFIX: &str = "examined/";
/// The key of the marker, which says which database the bucket belongs to (see
/// `common::files::ownership`).
pub const MARKER: &str = "platen-bucket";
/// The largest marker that is read, in bytes.
const MAX_MARKER_BYTES: u64 = 200;

/// A bucket: a folder, or a bucket at S3 or Google Cloud Storage. Clones are cheap.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// The folder, if the bucket is a folder.
    folder: Option<Folder>,
    /// The checksum that is sent with each write and that the store verifies. `None` for a folder,
    /// and for a store that verifies none.
    checksum: Option<Algorithm>,
    /// How the store signs links; `None` if the api serves the files.
    signing: Option<LinkSigning>,
    /// The keys that sign links to our own api.
    keys: SigningKeys,
}

/// A link to an object. Everybody who has the link can read the object until the link expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Path and query of a link to our own api.
    Local(String),
    /// URL at the store itself.
    Store(String),
}

/// What the headers of an answer tell a browser about a file.
#[derive(Clone, Copy, Debug)]
pub struct ContentDisposition<'a> {
    /// The media type of the file, such as `image/png`.
    pub media_type: &'a str,
    /// The name under which a browser saves the file.
    pub file_name: &'a str,
}

impl Bucket {
    /// Opens the bucket at an address. `keys` sign links to our own api.
    ///
    /// # Errors
    /// Returns an error if the folder does not exist, or if the settings of the store are not
    /// complete. A missing folder is not created, because its volume may just not be mounted. No
    /// request is sent to the store yet.
    pub fn open(address: &Address, keys: impl Into<SigningKeys>) -> Result<Self, BucketError> {
        let OpenedBucket {
            store,
            checksum,
            signing,
        } = address.open()?;
        let folder = match address {
            Address::Folder(folder) => Some(Folder::new(folder)),
            Address::S3(_) | Address::Gcs(_) => None,
        };
        Ok(Self {
            store,
            folder,
            checksum,
            signing,
            keys: keys.into(),
        })
    }

    /// Converts a key to the store's type. If the bucket is a folder, it first checks that only
    /// plain folders lead to the key.
    async fn checked_key(&self, key: &str) -> Result<Key, BucketError> {
        let key = Key::from(key);
        if let Some(folder) = &self.folder {
            folder.admit(&key).await?;
        }
        Ok(key)
    }

    /// Makes the api serve all files, so that no link leads to the store itself. For stores that
    /// clients cannot reach.
    #[must_use]
    pub fn serve_through_api(mut self) -> Self {
        self.signing = None;
        self
    }

    /// Whether the bucket is a folder of this machine.
    pub fn is_folder(&self) -> bool {
        self.folder.is_some()
    }

    /// Whether the store signs links, for reading and for writing.
    pub fn signs_links(&self) -> bool {
        self.signing.is_some()
    }

    /// Writes a new object, and verifies it by the checksum that the store answers with. If the
    /// store answers with none, as a folder does, the object is read back. Writing the same bytes
    /// to the same key again succeeds, so a write whose answer was lost may be repeated.
    ///
    /// # Errors
    /// Returns an error if the key has an object with other bytes, if the store received or returns
    /// other bytes, or if the bucket fails. After a failure of the bucket the object may exist.
    pub async fn put_new(&self, key: &str, bytes: Bytes) -> Result<StoredObject, BucketError> {
        let location = Key::from(key);
        if let Some(folder) = &self.folder {
            return folder.put_new(location, bytes).await;
        }
        let written = StoredObject::from_bytes(&bytes);
        let mut options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        if let Some(algorithm) = self.checksum {
            (options.extensions).insert(algorithm.checksum(&bytes, &written.sha256));
        }
        let payload = PutPayload::from(bytes);
        let already_exists = match self.store.put_opts(&location, payload, options).await {
            Ok(put) => match put.extensions.get() {
                Some(Verdict::Equal) => return Ok(written),
                Some(Verdict::Different) => return self.remove_garbled(key).await,
                None => None,
            },
            Err(error @ object_store::Error::AlreadyExists { .. }) => Some(error),
            Err(error) => return Err(error.into()),
        };
        match (self.measure(key).await?, already_exists) {
            (Some(read), _) if read == written => Ok(written),
            (Some(_), Some(_)) => Err(BucketError::TakenByAnother(key.to_owned())),
            // Another write of this key was in progress and failed.
            (None, Some(error)) => Err(error.into()),
            // This call created the object, but the store returns other bytes or no object.
            (_, None) => self.remove_garbled(key).await,
        }
    }

    /// Removes an object that this process has just created and that has other bytes than were
    /// sent, so that a retry can write it again. Always returns an error.
    async fn remove_garbled(&self, key: &str) -> Result<StoredObject, BucketError> {
        self.delete(key).await?;
        Err(BucketError::Garbled(key.to_owned()))
    }

    /// Checks that objects can be written, read and deleted, and that the store refuses to
    /// overwrite an object. For `platen doctor`, and for workers after the bucket was unavailable.
    ///
    /// # Errors
    /// Returns [`BucketError::Overwrites`] if an object was overwritten, or the error of the step
    /// that failed.
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

    /// Reads the text of the marker. Returns `None` if the bucket has no marker.
    ///
    /// # Errors
    /// Returns an error if the marker has more than 200 bytes, or if the bucket fails.
    pub async fn marker(&self) -> Result<Option<String>, BucketError> {
        let marker = self.get_at_most(MARKER, MAX_MARKER_BYTES).await?;
        Ok(marker.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    /// Writes the marker and reads it back. With `replace`, an existing marker is overwritten.
    ///
    /// # Errors
    /// Returns an error if there is a marker and `replace` is not set, if the marker that was read
    /// back differs, or if the bucket fails.
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
        let location = self.checked_key(MARKER).await?;
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

    /// Reads a whole object. Returns `None` if there is no object with this key.
    ///
    /// # Errors
    /// Returns an error if the bucket fails.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, BucketError> {
        self.get_at_most(key, u64::MAX).await
    }

    /// Does the same as [`Self::get`], for objects that may be too large because somebody else has
    /// written them.
    ///
    /// # Errors
    /// Returns an error if the object has more than `most` bytes (it is not read then), or if the
    /// bucket fails.
    pub async fn get_at_most(&self, key: &str, most: u64) -> Result<Option<Bytes>, BucketError> {
        if let Some(folder) = &self.folder {
            return folder.get(Key::from(key), most).await;
        }
        match self.store.get(&Key::from(key)).await {
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

    /// Reads up to `most` bytes of an object, beginning at byte `first` (the first byte of an
    /// object is 0), and the size of the whole object. Returns `None` if there is no object with
    /// this key.
    ///
    /// # Errors
    /// Returns an error if `first` is after the end of the object, or if the bucket fails.
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
            .get_opts(&self.checked_key(key).await?, options)
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

    /// Reads an object and returns its size and hash. Returns `None` if there is no object with
    /// this key. The object is never in memory as a whole.
    ///
    /// # Errors
    /// Returns an error if the bucket fails.
    pub async fn measure(&self, key: &str) -> Result<Option<StoredObject>, BucketError> {
        if let Some(folder) = &self.folder {
            return folder.measure(Key::from(key)).await;
        }
        let mut chunks = match self.store.get(&Key::from(key)).await {
            Ok(found) => found.into_stream(),
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (mut sha256, mut bytes) = (Sha256::new(), 0);
        while let Some(chunk) = chunks.try_next().await? {
            sha256.update(&chunk);
            bytes += length(&chunk);
        }
        Ok(Some(StoredObject {
            sha256: sha256.finalize().into(),
            bytes,
        }))
    }

    /// Lists every object, in no particular order. Objects that are written or deleted meanwhile
    /// may be in the list or not. The stream may be polled after its end.
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

    /// Lists every object whose key begins with `prefix`, in no particular order. `prefix` consists
    /// of whole parts of a key, with `/` after each. Unlike [`Self::list`] it reports no symbolic
    /// links and no special files, if the bucket is a folder.
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

    /// Deletes an object. Succeeds if there is no object with this key.
    ///
    /// # Errors
    /// Returns an error if the bucket fails.
    pub async fn delete(&self, key: &str) -> Result<(), BucketError> {
        match self.store.delete(&self.checked_key(key).await?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a link to an object that works for `lifetime`. If the store signs links, the link
    /// leads to the store (V4 signatures, `AWS4-HMAC-SHA256` or `GOOG4-RSA-SHA256`), and the time
    /// begins when the link is signed. Otherwise it leads to our own api, and the time begins at
    /// `now`.
    ///
    /// # Errors
    /// Returns an error if the store's credentials cannot be obtained.
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

    /// The origin of the links of [`Self::link`]: scheme, host and port of the store. `None` if
    /// these links lead to our own api.
    pub fn link_origin(&self) -> Option<&str> {
        let signing = self.signing.as_ref()?;
        Some(&signing.origin)
    }

    /// Makes a link that allows a client to write an object directly into the store for `lifetime`.
    /// Returns `None` if the store signs no links.
    ///
    /// # Errors
    /// Returns an error if the store's credentials cannot be obtained.
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
    /// Returns an error if the link is not signed by us, has expired, or works for longer than any
    /// link may.
    pub fn check_link(
        &self,
        key: &str,
        signed: Signed<'_>,
        now: OffsetDateTime,
    ) -> Result<(), BadLink> {
        self.keys.check(key, signed, now)
    }
}

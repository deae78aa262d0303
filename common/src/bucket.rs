//! The shelf: objects by key, written once, and links to them that are signed and expire.

mod address;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use hmac::{Hmac, KeyInit, Mac};
use object_store::path::Path as Key;
use object_store::signer::{Method, SignedUrlOptions};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

pub use address::{Address, BadAddress};
use address::{Opened, Signing};

use crate::file_name::attachment;

/// What a key begins with that an examination made. Nobody names it.
pub const EXAMINED: &str = "examined/";

/// Where objects are kept.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    signing: Option<Signing>,
    signing_key: SecretString,
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
pub struct Shown<'a> {
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

/// An object as the bucket lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub bytes: u64,
    /// When it was written, on the bucket's clock.
    pub modified: OffsetDateTime,
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
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("another object stands at {0} already, and no key is written twice")]
    TakenByAnother(String),
    #[error("what was written to {0} could not be read back as it was; it was removed again")]
    Garbled(String),
    #[error("objects are overwritten in it: it does not know `If-None-Match`")]
    Overwrites,
    #[error("{key} has {bytes} bytes, at most {most} are read")]
    TooLarge { key: String, bytes: u64, most: u64 },
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error("{0} is not a folder this process can use: {1}")]
    Folder(String, std::io::Error),
}

/// A link that is not, or no longer, good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLink {
    #[error("this link has expired: ask for a fresh one")]
    Expired,
    #[error("this link is not one of ours")]
    Forged,
}

impl Bucket {
    /// Opens the bucket at an address; a folder is made when it is missing.
    pub fn open(address: &Address, signing_key: SecretString) -> Result<Self, BucketError> {
        let Opened { store, signing } = address.open()?;
        Ok(Self {
            store,
            signing,
            signing_key,
        })
    }

    /// Without links to the store itself: for clients that do not reach it. The api gives its objects out then.
    #[must_use]
    pub fn behind_the_api(mut self) -> Self {
        self.signing = None;
        self
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
        let (location, payload) = (Key::from(key), PutPayload::from(bytes));
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
    pub async fn examine(&self) -> Result<(), BucketError> {
        let key = format!("{EXAMINED}{}", uuid::Uuid::now_v7());
        self.put_new(&key, Bytes::from_static(b"one")).await?;
        let overwritten = self.put_new(&key, Bytes::from_static(b"two")).await;
        self.delete(&key).await?;
        match overwritten {
            Err(BucketError::TakenByAnother(_)) => Ok(()),
            Ok(_) => Err(BucketError::Overwrites),
            Err(error) => Err(error),
        }
    }

    /// The whole object, or `None` when there is none.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, BucketError> {
        self.get_at_most(key, u64::MAX).await
    }

    /// As [`Self::get`], of what somebody else wrote: more than `most` bytes are an error, and not read.
    pub async fn get_at_most(&self, key: &str, most: u64) -> Result<Option<Bytes>, BucketError> {
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

    /// Size and hash of an object as it is now, or `None` when there is none. It is never whole in memory.
    pub async fn measure(&self, key: &str) -> Result<Option<Stored>, BucketError> {
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
        Ok(Some(Stored {
            sha256: sha256.finalize().into(),
            bytes,
        }))
    }

    /// Every object, in no order that matters. Objects that come and go meanwhile may be in it or not. Who asks again
    /// after the end is told so again.
    pub fn list(&self) -> BoxStream<'static, Result<Listed, BucketError>> {
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
        match self.store.delete(&Key::from(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A link to an object, good for `lifetime` from `now` on: at the store itself, signed by V4 (`AWS4-HMAC-SHA256` or
    /// `GOOG4-RSA-SHA256`), where it can do that; else at our own api.
    pub async fn link(
        &self,
        key: &str,
        shown: Shown<'_>,
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

    /// The path and query of a link to our own api, signed by HMAC-SHA256.
    pub fn our_link(
        &self,
        key: &str,
        file_name: &str,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> String {
        let expires = (now + lifetime).unix_timestamp();
        let signature = self.mac(key, Some(file_name), expires).finalize();
        let signature = hex::encode(signature.into_bytes());
        let name = utf8_percent_encode(file_name, NON_ALPHANUMERIC);
        format!("/files/{key}?expires={expires}&name={name}&signature={signature}")
    }

    /// Whether a link to this object, under this name, is ours and still good. Links of before files were called something have
    /// no name.
    pub fn check_link(
        &self,
        key: &str,
        file_name: Option<&str>,
        expires: i64,
        signature: &str,
        now: OffsetDateTime,
    ) -> Result<(), BadLink> {
        let signature = hex::decode(signature).map_err(|_| BadLink::Forged)?;
        self.mac(key, file_name, expires)
            .verify_slice(&signature)
            .map_err(|_| BadLink::Forged)?;
        if now.unix_timestamp() < expires {
            Ok(())
        } else {
            Err(BadLink::Expired)
        }
    }

    fn mac(&self, key: &str, file_name: Option<&str>, expires: i64) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.signing_key.expose_secret().as_bytes())
            .expect("any length is a key");
        mac.update(format!("GET\n{key}\n{expires}").as_bytes());
        if let Some(name) = file_name {
            mac.update(format!("\n{name}").as_bytes());
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    /// What it keeps is tested over every kind of bucket, in `tests/tests/buckets.rs`.
    fn bucket() -> (tempfile::TempDir, Bucket) {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Folder(folder.path().to_owned());
        let bucket = Bucket::open(&address, SecretString::from("key")).unwrap();
        (folder, bucket)
    }

    #[tokio::test]
    async fn links_expire_and_cannot_be_altered() {
        const LIFETIME: Duration = Duration::from_mins(15);
        let (_folder, bucket) = bucket();
        let now = datetime!(2026-11-22 12:00 UTC);
        let expires = now + LIFETIME;
        let shown = Shown {
            media_type: "image/png",
            file_name: "a.png",
        };
        let link = bucket.link("t/1/a.png", shown, now, LIFETIME).await;
        let Ok(Link::Ours(link)) = link else {
            panic!("{link:?}");
        };
        let signature = link.rsplit_once('=').unwrap().1;
        let check = |key, at, now| bucket.check_link(key, Some("a.png"), at, signature, now);
        assert_eq!(check("t/1/a.png", expires.unix_timestamp(), now), Ok(()));
        assert_eq!(
            check("t/1/a.png", expires.unix_timestamp(), expires),
            Err(BadLink::Expired)
        );
        assert_eq!(
            check("t/1/b.png", expires.unix_timestamp(), now),
            Err(BadLink::Forged)
        );
        assert_eq!(
            check("t/1/a.png", expires.unix_timestamp() + 1, now),
            Err(BadLink::Forged)
        );
        assert_eq!(
            bucket.check_link(
                "t/1/a.png",
                Some("a.png"),
                expires.unix_timestamp(),
                "zz",
                now
            ),
            Err(BadLink::Forged)
        );
        for other in [None, Some("b.exe")] {
            assert_eq!(
                bucket.check_link("t/1/a.png", other, expires.unix_timestamp(), signature, now),
                Err(BadLink::Forged)
            );
        }
    }
}

//! The address of a bucket: a folder on this machine, `s3://bucket/prefix` at S3 or a store with
//! the same protocol, or `gs://bucket/prefix` at Google Cloud Storage.

mod gcs;
mod s3;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::signer::Signer;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

use super::BucketError;
use super::checksum::{Algorithm, VerifyingConnector};

/// The address of a bucket, and the settings to reach it.
#[derive(Clone)]
pub enum Address {
    /// A folder on this machine.
    Folder(PathBuf),
    /// A bucket at S3.
    S3(Remote<AmazonS3Builder>),
    /// A bucket at Google Cloud Storage.
    Gcs(Remote<GoogleCloudStorageBuilder>),
}

/// A bucket at S3 or Google Cloud Storage.
#[derive(Clone)]
pub struct Remote<B> {
    bucket: String,
    /// What the keys in the store begin with, so that one bucket can hold the files of several
    /// installations. Keys in our code are without it.
    prefix: Key,
    builder: Box<B>,
}

/// What [`Address::open`] returns: the store, how it verifies writes, and how it signs links.
pub(super) struct OpenedBucket {
    /// Reads and writes objects.
    pub store: Arc<dyn ObjectStore>,
    /// The checksum that is sent with a write. `None` for a folder, and for a store that refuses
    /// checksums.
    pub checksum: Option<Algorithm>,
    /// How the store signs links; `None` for a folder.
    pub signing: Option<LinkSigning>,
}

/// How links to a store are signed.
#[derive(Clone)]
pub(super) struct LinkSigning {
    /// Signs the path of a link.
    pub signer: Arc<dyn Signer>,
    /// Scheme, host and port of every link.
    pub origin: String,
    /// See [`Remote`].
    prefix: Key,
    /// Converts a key to the form in which it is in the path of a link.
    escape: fn(&Key) -> Key,
}

impl LinkSigning {
    /// The path of an object, as it is in a link. `key` is without the prefix.
    pub(super) fn path(&self, key: &Key) -> Key {
        let full_key = self.prefix.parts().chain(key.parts()).collect();
        (self.escape)(&full_key)
    }
}

/// What is wrong with an address, as a text for operators.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadAddress(String);

impl Address {
    /// Prefixes of the environment variables that [`Self::parse`] needs.
    pub const VARIABLES: [&'static str; 3] = ["AWS_", "GOOGLE_", "STORAGE_EMULATOR_HOST"];

    /// Parses an address.
    ///
    /// `variables` are the standard variables of AWS and Google, such as credentials, region and
    /// endpoint. If they contain no credentials, the credentials are found as the vendors' own
    /// programs find them: a web identity, or the role of a container or an instance.
    ///
    /// # Errors
    /// Returns an error if the scheme is not known, if the bucket or the prefix is not valid, or if
    /// an endpoint on another machine is not encrypted and the variables do not allow that.
    pub fn parse(
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, BadAddress> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Folder(PathBuf::from(text)));
        };
        let bad = |problem: String| Err(BadAddress(problem));
        if !["s3", "gs"].contains(&scheme) {
            return bad(format!(
                "{scheme}:// is not known: use a folder, s3://bucket/prefix, or gs://bucket/prefix"
            ));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || bucket.contains(['?', '#', '@', ':']) {
            return bad(format!(
                "{text:?} names no bucket: use {scheme}://bucket/prefix"
            ));
        }
        let prefix = match Key::parse(prefix.trim_end_matches('/')) {
            Ok(prefix) => prefix,
            Err(error) => return bad(format!("{prefix:?} is no prefix of keys: {error}")),
        };
        // An empty variable counts as not set, because Docker Compose passes unset variables on as
        // empty ones.
        let variables = variables.into_iter().filter(|(_, value)| !value.is_empty());
        let bucket = bucket.to_owned();
        Ok(match scheme {
            "s3" => Self::S3(Remote {
                builder: Box::new(s3::builder(&bucket, variables)?),
                bucket,
                prefix,
            }),
            _ => Self::Gcs(Remote {
                builder: Box::new(gcs::builder(&bucket, variables)?),
                bucket,
                prefix,
            }),
        })
    }

    /// Creates the folder if it is missing. For `platen up`, which owns the folder. A bucket at S3
    /// or Google Cloud Storage is not created.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created.
    pub fn make_folder(&self) -> Result<(), BucketError> {
        let Self::Folder(folder) = self else {
            return Ok(());
        };
        std::fs::create_dir_all(folder)
            .map_err(|error| BucketError::Folder(folder.display().to_string(), error))
    }

    /// Opens the bucket. Sends no request yet.
    ///
    /// # Errors
    /// Returns an error if the folder does not exist, or if the settings of the store are not
    /// complete.
    pub(super) fn open(&self) -> Result<OpenedBucket, BucketError> {
        Ok(match self {
            Self::Folder(folder) => {
                let problem = |error| BucketError::Folder(folder.display().to_string(), error);
                if !std::fs::metadata(folder).map_err(problem)?.is_dir() {
                    return Err(problem(io::ErrorKind::NotADirectory.into()));
                }
                OpenedBucket {
                    store: Arc::new(LocalFileSystem::new_with_prefix(folder)?.with_fsync(true)),
                    checksum: None,
                    signing: None,
                }
            }
            Self::S3(remote) => {
                let builder = remote.builder.as_ref().clone();
                let store = builder.with_http_connector(VerifyingConnector::default());
                let checksum = s3::checksum(&remote.builder);
                let origin = origin(&s3::url(&remote.builder));
                remote.open(store.build()?, checksum, origin, Key::clone)
            }
            Self::Gcs(remote) => {
                let builder = remote.builder.as_ref().clone();
                let store = builder.with_http_connector(VerifyingConnector::default());
                let checksum = Some(Algorithm::GoogleCrc32c);
                let origin = origin(&gcs::url(&remote.builder));
                remote.open(store.build()?, checksum, origin, gcs::escaped)
            }
        })
    }
}

impl<B> Remote<B> {
    /// The opened bucket. `store` knows no prefix: it is added here.
    fn open(
        &self,
        store: impl ObjectStore + Signer + Clone,
        checksum: Option<Algorithm>,
        origin: String,
        escape: fn(&Key) -> Key,
    ) -> OpenedBucket {
        OpenedBucket {
            store: Arc::new(PrefixStore::new(store.clone(), self.prefix.clone())),
            checksum,
            signing: Some(LinkSigning {
                signer: Arc::new(store),
                origin,
                prefix: self.prefix.clone(),
                escape,
            }),
        }
    }

    /// Writes the address, without the credentials.
    fn write(&self, scheme: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, prefix, .. } = self;
        write!(f, "{scheme}://{bucket}")?;
        if prefix.as_ref().is_empty() {
            return Ok(());
        }
        write!(f, "/{prefix}")
    }
}

/// Writes the address in the form of `PLATEN_BUCKET`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::S3(remote) => remote.write("s3", f),
            Self::Gcs(remote) => remote.write("gs", f),
        }
    }
}

/// Writes the address without the credentials.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Retries for failures that last only moments. Callers that can wait longer retry on their own.
/// Each request may take 30 seconds (`AWS_TIMEOUT`), and no retry is sent more than ten seconds
/// after the first request.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 3,
        retry_timeout: Duration::from_secs(10),
    }
}

/// Scheme, host and port of a URL.
fn origin(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    format!("{scheme}://{authority}")
}

/// Whether an `http://` endpoint is on this machine, where nobody can read the traffic.
fn is_loopback(endpoint: &str) -> bool {
    let authority = endpoint.trim_start_matches("http://");
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    // What stands before the last @ is a user, not the host.
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let variables = variables
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let address = Address::parse(text, variables).map_err(|bad| bad.to_string())?;
        Ok(format!("{address:?}"))
    }

    #[test]
    fn an_address_is_a_folder_or_a_bucket() {
        for (text, is) in [
            ("./data/bucket", "./data/bucket"),
            ("/srv/a:b", "/srv/a:b"),
            ("s3://pictures", "s3://pictures"),
            ("s3://pictures/", "s3://pictures"),
            ("s3://pictures/of/ours/", "s3://pictures/of/ours"),
            ("gs://pictures", "gs://pictures"),
            ("gs://pictures/of/ours/", "gs://pictures/of/ours"),
        ] {
            let key = [("AWS_SECRET_ACCESS_KEY", "hush")];
            assert_eq!(parse(text, &key).as_deref(), Ok(is), "{text}");
        }
        for (text, says) in [
            ("ftp://pictures", "ftp:// is not known"),
            ("gs://", "names no bucket"),
            ("s3://", "names no bucket"),
            ("s3:///of", "names no bucket"),
            ("s3://key:secret@pictures", "names no bucket"),
            ("s3://pictures/a//b", "is no prefix"),
        ] {
            let refused = parse(text, &[]).unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
    }

    #[test]
    fn only_loopback_may_be_unencrypted() {
        let endpoint = |url, allowed| {
            let variables = [("AWS_ENDPOINT_URL", url), ("AWS_ALLOW_HTTP", allowed)];
            parse("s3://pictures", &variables).is_ok()
        };
        for local in [
            "http://127.0.0.1:9000",
            "http://localhost",
            "http://[::1]:9000/",
        ] {
            assert!(endpoint(local, ""), "{local}");
        }
        for remote in [
            "http://minio:9000",
            "http://localhost.evil.example:9000",
            "http://localhost:9000@evil.example",
        ] {
            assert!(!endpoint(remote, ""), "{remote}");
            assert!(endpoint(remote, "true"), "{remote}");
        }
        assert!(endpoint("https://minio:9000", ""));
        let emulator = |host: &str| {
            let variables = [("STORAGE_EMULATOR_HOST", host)];
            parse("gs://pictures", &variables).is_ok()
        };
        for local in ["http://127.0.0.1:4443", "127.0.0.1:4443", "localhost:4443"] {
            assert!(emulator(local), "{local}");
        }
        assert!(!emulator("http://storage:4443"));
        assert!(emulator("https://storage:4443"));
    }

    #[tokio::test]
    async fn the_origin_of_links_is_known_before_one_is_signed() {
        const TIME: Duration = Duration::from_mins(1);
        for (bucket, variables, expected) in [
            ("pictures", &[][..], "https://s3.us-east-1.amazonaws.com"),
            (
                "pictures",
                &[("AWS_REGION", "eu-central-1")],
                "https://s3.eu-central-1.amazonaws.com",
            ),
            (
                "pictures",
                &[
                    ("AWS_DEFAULT_REGION", "eu-west-1"),
                    ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true"),
                ],
                "https://pictures.s3.eu-west-1.amazonaws.com",
            ),
            (
                "pictures",
                &[("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/")],
                "http://127.0.0.1:9000",
            ),
            (
                "pictures",
                &[
                    ("AWS_ENDPOINT_URL", "https://minio.example:9000/store"),
                    ("AWS_ENDPOINT_URL_S3", "https://s3.example"),
                ],
                "https://s3.example",
            ),
            (
                "pictures",
                &[
                    ("AWS_ENDPOINT_URL", "https://pictures.minio.example"),
                    ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true"),
                ],
                "https://pictures.minio.example",
            ),
        ] {
            let key = [
                ("AWS_ACCESS_KEY_ID", "key"),
                ("AWS_SECRET_ACCESS_KEY", "hush"),
            ];
            let variables = variables.iter().chain(&key);
            let variables = variables.map(|&(name, value)| (name.to_owned(), value.to_owned()));
            let address = Address::parse(&format!("s3://{bucket}/of/ours"), variables).unwrap();
            let LinkSigning { signer, origin, .. } = address.open().unwrap().signing.unwrap();
            assert_eq!(origin, expected);
            let method = object_store::signer::Method::GET;
            let link = signer
                .signed_url(method, &Key::from("a.png"), TIME)
                .await
                .unwrap();
            assert_eq!(link.origin().ascii_serialization(), expected);
        }
    }

    #[test]
    fn encryption_settings_are_accepted() {
        let key = [
            ("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms"),
            ("AWS_SSE_KMS_KEY_ID", "arn:aws:kms:eu-central-1:1:key/2"),
        ];
        assert!(parse("s3://pictures", &key).is_ok());
    }
}

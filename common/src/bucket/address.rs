//! Where a bucket is: a folder on this machine, or `s3://bucket/prefix` at whoever speaks S3.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

use super::BucketError;

/// Where a bucket is, and how it is reached.
#[derive(Clone)]
pub enum Address {
    Folder(PathBuf),
    S3(S3),
}

/// A bucket that speaks S3. Every process may have objects of its own under the prefix.
#[derive(Clone)]
pub struct S3 {
    bucket: String,
    prefix: Key,
    builder: Box<AmazonS3Builder>,
}

/// An address that cannot be one, in words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadAddress(String);

impl Address {
    /// Reads an address. `variables` are the standard `AWS_…` ones: credentials, region, endpoint. What is not said is
    /// found as AWS's own programs find it on their machines: a web identity, a container's or an instance's role.
    pub fn parse(
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, BadAddress> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Folder(PathBuf::from(text)));
        };
        let bad = |problem: String| Err(BadAddress(problem));
        if scheme != "s3" {
            return bad(format!(
                "{scheme}:// is not known: a folder, or s3://bucket/prefix"
            ));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || bucket.contains(['?', '#', '@', ':']) {
            return bad(format!(
                "{text:?} names no bucket, as s3://bucket/prefix does"
            ));
        }
        let prefix = match Key::parse(prefix.trim_end_matches('/')) {
            Ok(prefix) => prefix,
            Err(error) => return bad(format!("{prefix:?} is no prefix of keys: {error}")),
        };
        // An empty variable is none: so Docker Compose passes on what is not set.
        let variables = variables.into_iter().filter(|(_, value)| !value.is_empty());
        let mut builder = AmazonS3Builder::new();
        let mut endpoint = None;
        let mut http_is_allowed = false;
        for (name, value) in variables {
            let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() else {
                continue;
            };
            match name.as_str() {
                "AWS_ENDPOINT_URL_S3" => endpoint = Some(value.clone()),
                "AWS_ENDPOINT_URL" | "AWS_ENDPOINT" => {
                    endpoint.get_or_insert_with(|| value.clone());
                }
                "AWS_ALLOW_HTTP" => http_is_allowed = value == "true" || value == "1",
                _ => {}
            }
            builder = builder.with_config(key, value);
        }
        if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.starts_with("http://"))
            && !http_is_allowed
        {
            if !is_loopback(&endpoint) {
                return bad(format!(
                    "{endpoint} is not encrypted: https, or AWS_ALLOW_HTTP=true in a network of your own"
                ));
            }
            builder = builder.with_allow_http(true);
        }
        let builder = builder
            .with_bucket_name(bucket)
            // No key is written twice: a store that cannot promise it is no bucket.
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(retries());
        Ok(Self::S3(S3 {
            bucket: bucket.to_owned(),
            prefix,
            builder: Box::new(builder),
        }))
    }

    /// Opens it, and makes a folder that is missing. Nothing is sent yet.
    pub(super) fn open(&self) -> Result<Arc<dyn ObjectStore>, BucketError> {
        Ok(match self {
            Self::Folder(folder) => {
                let problem = |error| BucketError::Folder(folder.display().to_string(), error);
                std::fs::create_dir_all(folder).map_err(problem)?;
                Arc::new(LocalFileSystem::new_with_prefix(folder)?.with_fsync(true))
            }
            Self::S3(S3 {
                prefix, builder, ..
            }) => {
                let store = builder.as_ref().clone().build()?;
                Arc::new(PrefixStore::new(store, prefix.clone()))
            }
        })
    }
}

/// As it is written in `PLATEN_BUCKET`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::S3(S3 { bucket, prefix, .. }) if prefix.as_ref().is_empty() => {
                write!(f, "s3://{bucket}")
            }
            Self::S3(S3 { bucket, prefix, .. }) => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Without the credentials.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// For what passes within moments. Whoever can wait for longer asks again: each request has 30 seconds
/// (`AWS_TIMEOUT`), none is sent ten seconds after the first, so nothing waits here for ever.
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

/// Whether an endpoint is on this machine, where nobody listens in.
fn is_loopback(endpoint: &str) -> bool {
    let authority = endpoint.trim_start_matches("http://");
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
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
        ] {
            let key = [("AWS_SECRET_ACCESS_KEY", "hush")];
            assert_eq!(parse(text, &key).as_deref(), Ok(is), "{text}");
        }
        for (text, says) in [
            ("gs://pictures", "gs:// is not known"),
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
    fn only_this_machine_is_spoken_to_in_the_clear() {
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
        for remote in ["http://minio:9000", "http://localhost.evil.example:9000"] {
            assert!(!endpoint(remote, ""), "{remote}");
            assert!(endpoint(remote, "true"), "{remote}");
        }
        assert!(endpoint("https://minio:9000", ""));
    }
}

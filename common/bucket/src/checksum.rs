//! Verifies a write by the checksum of the store.
//!
//! A checksum goes with each write. A store that verifies checksums refuses other bytes, and
//! answers with the checksum of what it has stored. `object_store` neither sends a checksum to
//! Google Cloud Storage nor returns the checksum of an answer, so [`VerifyingConnector`] does both:
//! it gets the [`Checksum`] from the extensions of a request, and puts a [`Verdict`] into the
//! extensions of the answer (`docs/decisions/0040`).

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::{ClientConfigKey, ClientOptions, Result};

/// How a store verifies what it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// SHA-256, in `x-amz-checksum-sha256` of S3.
    /// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html>
    AmazonSha256,
    /// CRC-32C, in `x-goog-hash` of Google Cloud Storage.
    /// <https://cloud.google.com/storage/docs/xml-api/reference-headers#xgooghash>
    GoogleCrc32c,
}

/// The checksum of an object that is written.
#[derive(Clone, Debug)]
pub(super) struct Checksum {
    /// The name of the header.
    header: &'static str,
    /// What is before the digest in the header's value.
    prefix: &'static str,
    /// The digest of the bytes, in base64.
    digest: String,
    /// Whether the header must be added to the request. `object_store` adds that of S3 by itself,
    /// because the signature covers it.
    must_be_added: bool,
}

/// The checksum with which a store answered, compared with ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The store has the bytes that were sent.
    Equal,
    /// The store has other bytes.
    Different,
}

impl Algorithm {
    /// The checksum of `bytes`, whose SHA-256 is known.
    pub(super) fn checksum(self, bytes: &[u8], sha256: &[u8; 32]) -> Checksum {
        match self {
            Self::AmazonSha256 => Checksum {
                header: "x-amz-checksum-sha256",
                prefix: "",
                digest: STANDARD.encode(sha256),
                must_be_added: false,
            },
            Self::GoogleCrc32c => Checksum {
                header: "x-goog-hash",
                prefix: "crc32c=",
                digest: STANDARD.encode(crc_fast::crc32_iscsi(bytes).to_be_bytes()),
                must_be_added: true,
            },
        }
    }
}

impl Checksum {
    /// Compares the checksum with that of an answer. Returns `None` if the answer has none.
    fn compare(&self, answer: &HttpResponse) -> Option<Verdict> {
        // The checksums of several algorithms may be in one header, separated by commas, or each in
        // a header of its own.
        let values = answer.headers().get_all(self.header).iter();
        let values = values.filter_map(|value| value.to_str().ok());
        let mut values = values.flat_map(|value| value.split(','));
        let digest = values.find_map(|value| value.trim().strip_prefix(self.prefix))?;
        Some(if digest == self.digest {
            Verdict::Equal
        } else {
            Verdict::Different
        })
    }
}

/// How long a connection is kept without a request. After a failure of the network each connection
/// that seems to work costs a request its whole timeout, and the bucket stays unavailable until none
/// is left.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes HTTP clients that send the [`Checksum`] of a request, and return a [`Verdict`].
#[derive(Debug, Default)]
pub(super) struct VerifyingConnector(ReqwestConnector);

/// An HTTP client that sends the [`Checksum`] of a request, and returns a [`Verdict`].
#[derive(Debug)]
struct VerifyingService(HttpClient);

impl HttpConnector for VerifyingConnector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let mut options = options.clone();
        if (options.get_config_value(&ClientConfigKey::PoolIdleTimeout)).is_none() {
            options = options.with_pool_idle_timeout(IDLE_TIMEOUT);
        }
        let client = self.0.connect(&options)?;
        Ok(HttpClient::new(VerifyingService(client)))
    }
}

#[async_trait]
impl HttpService for VerifyingService {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let checksum = request.extensions_mut().remove::<Checksum>();
        let Some(checksum) = checksum else {
            return self.0.execute(request).await;
        };
        if checksum.must_be_added
            && let Ok(value) = format!("{}{}", checksum.prefix, checksum.digest).parse()
        {
            request.headers_mut().insert(checksum.header, value);
        }
        let mut answer = self.0.execute(request).await?;
        if answer.status().is_success()
            && let Some(verdict) = checksum.compare(&answer)
        {
            answer.extensions_mut().insert(verdict);
        }
        Ok(answer)
    }
}

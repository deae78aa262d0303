//! Where Redis answers, and how it is dialled.
//!
//! A URL that stands in a file is read anew for each connection: whoever changes the password of Redis writes the file,
//! and no process needs a restart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// Bytes of a file that are read: far more than a URL has.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// Where Redis answers.
#[derive(Clone, Debug)]
pub enum Address {
    Url(SecretString),
    /// A file that holds the URL.
    File(PathBuf),
}

impl From<&str> for Address {
    fn from(url: &str) -> Self {
        Self::Url(url.into())
    }
}

impl Address {
    /// Whether it can be used at all.
    ///
    /// # Errors
    /// A URL that is none. A file is read when Redis is dialled: it may be written later than a process starts.
    pub(super) fn check(&self) -> RedisResult<()> {
        match self {
            Self::Url(url) => Client::open(url.expose_secret()).map(drop),
            Self::File(_) => Ok(()),
        }
    }

    /// A new connection, within `connecting`. Each of its answers may take as long as `answering`.
    pub(super) async fn dial(
        &self,
        connecting: Duration,
        answering: Duration,
    ) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connecting))
            .set_response_timeout(Some(answering));
        let dial = async {
            let client = match self {
                Self::Url(url) => Client::open(url.expose_secret())?,
                Self::File(file) => Client::open(read(file).await?.expose_secret())?,
            };
            client
                .get_multiplexed_async_connection_with_config(&config)
                .await
        };
        timeout(connecting, dial)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    }
}

async fn read(file: &Path) -> RedisResult<SecretString> {
    let read = async {
        let mut text = String::new();
        let file = tokio::fs::File::open(file).await?;
        file.take(MAX_FILE_BYTES).read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let text = read.await.map_err(|error| {
        let problem = "the file that REDIS_URL_FILE names cannot be read";
        RedisError::from((ErrorKind::InvalidClientConfig, problem, error.to_string()))
    })?;
    Ok(SecretString::from(text.trim_end()))
}

//! The address of Redis, and how to connect to it.
//!
//! If a file holds the URL, the file is read for each connection. So the password of Redis can be
//! changed by writing the file, and no process needs a restart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// Most bytes that are read from the file. This is far more than a URL has.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// The address of Redis.
#[derive(Clone, Debug)]
pub enum Address {
    /// A URL, `redis://…` or `rediss://…`.
    Url(SecretString),
    /// A file that holds the URL (`REDIS_URL_FILE`).
    File(PathBuf),
}

impl From<&str> for Address {
    fn from(url: &str) -> Self {
        Self::Url(url.into())
    }
}

impl Address {
    /// Checks that the URL is valid.
    ///
    /// # Errors
    /// Returns an error if the URL is not valid. A file is not read here, because it may be written
    /// after the process has started.
    pub(super) fn check(&self) -> RedisResult<()> {
        match self {
            Self::Url(url) => Client::open(url.expose_secret()).map(drop),
            Self::File(_) => Ok(()),
        }
    }

    /// Opens a connection within `connect_timeout`. Each answer on the connection may take
    /// `response_timeout`.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, if Redis cannot be reached in time, or if it
    /// rejects the login.
    pub(super) async fn connect(
        &self,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_timeout))
            .set_response_timeout(Some(response_timeout));
        let connect = async {
            let client = match self {
                Self::Url(url) => Client::open(url.expose_secret())?,
                Self::File(file) => Client::open(read(file).await?.expose_secret())?,
            };
            client
                .get_multiplexed_async_connection_with_config(&config)
                .await
        };
        // The timeout covers all steps, because reading the file or resolving the host name may
        // hang, too.
        timeout(connect_timeout, connect)
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

//! Links to files. Each answer has fresh links, which work for a limited time.

use std::time::Duration;

use bucket::{ContentDisposition, Link};
use domain::clock;
use domain::generation::image::MediaType;
use time::OffsetDateTime;

use crate::app::App;
use crate::base_url::BaseUrl;

/// A file to link to.
#[derive(Clone, Copy)]
pub struct File<'a> {
    /// The key of the object in the bucket.
    pub key: &'a str,
    /// The type of the file.
    pub media_type: MediaType,
    /// The name under which a browser saves the file.
    pub name: &'a str,
}

/// A link to a file.
pub struct FileLink {
    /// Where the file can be downloaded without an API key.
    pub url: String,
    /// Until when the link works.
    pub expires_at: OffsetDateTime,
}

impl FileLink {
    /// Makes a link to `file` that works for `lifetime`. It leads to the store if the store signs links, else to this API. If the
    /// store fails to sign, the API serves the file instead.
    pub async fn to(app: &App, base: &BaseUrl, file: File<'_>, lifetime: Duration) -> Self {
        // Signatures name whole seconds.
        let now = clock::now().replace_nanosecond(0);
        let now = now.expect("0 is a valid number of nanoseconds");
        let disposition = ContentDisposition {
            media_type: file.media_type.as_str(),
            file_name: file.name,
        };
        let url = match app.bucket.link(file.key, disposition, now, lifetime).await {
            Ok(Link::Local(path)) => base.link(&path),
            Ok(Link::Store(url)) => url,
            Err(error) => {
                tracing::warn!(%error, "The bucket does not sign links; the API serves its files instead");
                base.link(&app.bucket.local_link(file.key, file.name, now, lifetime))
            }
        };
        Self {
            url,
            expires_at: now + lifetime,
        }
    }
}

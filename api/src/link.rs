//! Links to files: fresh in each answer, and good for a while.

use std::time::Duration;

use common::bucket::{ContentDisposition, Link};
use common::clock;
use common::generation::image::MediaType;
use time::OffsetDateTime;

use crate::app::App;
use crate::base_url::BaseUrl;

/// A file that is to be linked to.
#[derive(Clone, Copy)]
pub struct File<'a> {
    pub key: &'a str,
    pub media_type: MediaType,
    /// What it is called when it is kept.
    pub name: &'a str,
}

/// Where a file can be had, and until when.
pub struct FileLink {
    pub url: String,
    pub expires_at: OffsetDateTime,
}

impl FileLink {
    /// A link that works for `lifetime`: at the store, where it can sign; a store that cannot just now hides no file, for it
    /// comes through us meanwhile.
    pub async fn to(app: &App, base: &BaseUrl, file: File<'_>, lifetime: Duration) -> Self {
        let now = clock::now().replace_nanosecond(0);
        let now = now.expect("zero is a nanosecond");
        let shown = ContentDisposition {
            media_type: file.media_type.as_str(),
            file_name: file.name,
        };
        let url = match app.bucket.link(file.key, shown, now, lifetime).await {
            Ok(Link::Ours(path)) => base.link(&path),
            Ok(Link::Store(url)) => url,
            Err(error) => {
                tracing::warn!(%error, "The bucket signs no links; its files are given out by the api");
                base.link(&app.bucket.our_link(file.key, file.name, now, lifetime))
            }
        };
        Self {
            url,
            expires_at: now + lifetime,
        }
    }
}

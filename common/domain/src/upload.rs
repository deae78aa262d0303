//! An upload: an image that a tenant stores to use it in any number of jobs.
//!
//! Platen encodes the image again before it is stored, so that only its pixels remain. The object
//! is written before the row. An upload is deleted when its owner asks for it, but not while an
//! open job uses it.

use time::OffsetDateTime;

use crate::file_name;
use crate::id::{TenantId, UploadId};
use crate::stored_file::StoredFile;

/// An uploaded image.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Its id.
    pub id: UploadId,
    /// The name its owner gave it.
    pub name: Option<String>,
    /// Its file.
    pub file: StoredFile,
    /// When its row was inserted; `None` before that.
    pub created_at: Option<OffsetDateTime>,
}

impl Upload {
    /// The name it is saved under when it is downloaded.
    pub fn file_name(&self) -> String {
        file_name::file_name(
            self.name.as_deref(),
            &self.id.to_string(),
            "",
            self.file.media_type,
        )
    }
}

/// The key of an upload in the bucket.
pub fn key(tenant: TenantId, upload: UploadId) -> String {
    format!("t/{}/u/{}", tenant.0, upload.0)
}

/// The key under which a client itself writes a file to the bucket. Platen then encodes the file
/// again, stores the result under [`key`], and deletes this object. No row names it, so the sweeper
/// removes an object that is left behind.
pub fn raw_key(tenant: TenantId, upload: UploadId) -> String {
    format!("{}.raw", key(tenant, upload))
}

//! An upload: a picture a tenant keeps with us, to name it in any number of jobs.
//!
//! It was written anew before it is kept, so that nothing but its pixels remains. Its object is written before its row; it is
//! deleted when its owner says so, and not while an open job needs it.

use time::OffsetDateTime;

use crate::file_name;
use crate::generation::image::{MediaType, Pixels};
use crate::id::{TenantId, UploadId};

/// A picture that is kept.
#[derive(Clone, Debug)]
pub struct Upload {
    pub id: UploadId,
    /// What its owner calls it.
    pub name: Option<String>,
    pub object_key: String,
    pub sha256: [u8; 32],
    pub bytes: i64,
    pub media_type: MediaType,
    pub pixels: Pixels,
    /// `None` before it is kept.
    pub created_at: Option<OffsetDateTime>,
}

impl Upload {
    /// What it is called when it is kept somewhere else.
    pub fn file_name(&self) -> String {
        file_name::file_name(
            self.name.as_deref(),
            &self.id.to_string(),
            "",
            self.media_type,
        )
    }
}

/// Where an upload is kept.
pub fn key(tenant: TenantId, upload: UploadId) -> String {
    format!("t/{}/u/{}", tenant.0, upload.0)
}

/// Where a client puts the file itself, until it is written anew. No row names it: one that is left behind is swept.
pub fn raw_key(tenant: TenantId, upload: UploadId) -> String {
    format!("{}.raw", key(tenant, upload))
}

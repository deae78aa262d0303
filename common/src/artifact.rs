//! An artifact: a file we made. Its object is written before the row that names it, under a key that is never
//! written twice.

pub mod store;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::generation::image::{Format, MediaType, Pixels};
use crate::id::{ArtifactId, JobId, TenantId};

/// What a file is to its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// As the model made it.
    Original,
    /// Of exactly the size and format asked for.
    Rendition,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Rendition => "rendition",
        }
    }
}

/// A file we made and keep.
#[derive(Clone, Debug)]
pub struct Artifact {
    pub id: ArtifactId,
    pub job: JobId,
    pub output_idx: i32,
    pub role: Role,
    pub object_key: String,
    pub sha256: [u8; 32],
    pub bytes: i64,
    pub media_type: MediaType,
    pub pixels: Pixels,
    /// Made by a fake: no AI model was called.
    pub synthetic: bool,
    pub created_at: Option<OffsetDateTime>,
}

/// Where an attempt stores a rendition: its fence is in the key, so a late worker overwrites nothing.
pub fn rendition_key(
    tenant: TenantId,
    job: JobId,
    fence: i32,
    output_idx: i32,
    format: Format,
) -> String {
    format!(
        "t/{}/j/{}/{fence}/{output_idx}.{}",
        tenant.0,
        job.0,
        format.extension()
    )
}

/// Where an input the tenant sent along is kept until the job has ended.
pub fn input_key(tenant: TenantId, job: JobId, index: usize) -> String {
    format!("t/{}/j/{}/in/{index}", tenant.0, job.0)
}

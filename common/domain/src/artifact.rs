//! An artifact: a file we made. Its object is written before the row that names it, under a key that is never
//! written twice.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::file_name;
use crate::generation::image::{Format, MediaType, Pixels};
use crate::id::{ArtifactId, JobId, TenantId};

/// What a file is to its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// As the model made it.
    Original,
    /// Of exactly the size and format asked for.
    Rendition,
    /// A small one of the rendition, for lists.
    Thumbnail,
}

impl ArtifactKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Rendition => "rendition",
            Self::Thumbnail => "thumbnail",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Original, Self::Rendition, Self::Thumbnail]
            .into_iter()
            .find(|role| role.as_str() == text)
    }
}

/// A file we made and keep.
#[derive(Clone, Debug)]
pub struct Artifact {
    pub id: ArtifactId,
    pub job: JobId,
    pub output_idx: i32,
    pub kind: ArtifactKind,
    pub object_key: String,
    pub sha256: [u8; 32],
    pub bytes: i64,
    pub media_type: MediaType,
    pub pixels: Pixels,
    /// Made by a fake: no AI model was called.
    pub synthetic: bool,
    /// Of an original: SHA-256 of the content credentials (C2PA) it carries.
    pub c2pa_sha256: Option<[u8; 32]>,
    pub created_at: Option<OffsetDateTime>,
}

impl Artifact {
    /// What it is called when it is kept: after its job, where that has a name.
    pub fn file_name(&self, job_name: Option<&str>) -> String {
        let role = match self.kind {
            ArtifactKind::Rendition => "",
            ArtifactKind::Original => " original",
            ArtifactKind::Thumbnail => " thumbnail",
        };
        let number = match self.output_idx {
            0 => String::new(),
            index => format!(" {}", index.saturating_add(1)),
        };
        let suffix = format!("{number}{role}");
        file_name::file_name(job_name, &self.id.to_string(), &suffix, self.media_type)
    }
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

/// Where an attempt stores the thumbnail of a rendition.
pub fn thumbnail_key(tenant: TenantId, job: JobId, fence: i32, output_idx: i32) -> String {
    format!(
        "t/{}/j/{}/{fence}/{output_idx}.thumbnail.webp",
        tenant.0, job.0
    )
}

/// Where an input the tenant sent along is kept until the job has ended.
pub fn input_key(tenant: TenantId, job: JobId, index: usize) -> String {
    format!("t/{}/j/{}/in/{index}", tenant.0, job.0)
}

/// The end of a key as one name: job, attempt and output. For links that say no name.
pub fn file_name(key: &str) -> String {
    let mut parts: Vec<&str> = key.rsplit('/').take(3).collect();
    parts.reverse();
    parts.join("-").replace(
        |letter: char| !letter.is_ascii_alphanumeric() && letter != '.',
        "-",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_after_its_job() {
        assert_eq!(file_name("t/1/j/2/3/0.png"), "2-3-0.png");
        assert_eq!(file_name("a\"b.png"), "a-b.png");
    }
}

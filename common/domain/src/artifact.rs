//! Artifacts: the files that we make.
//!
//! A file is written to the bucket before the row that names it, under a key that is never written
//! twice. So every row names a complete file.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::file_name;
use crate::generation::image::Format;
use crate::id::{ArtifactId, JobId, TenantId};
use crate::stored_file::StoredFile;

/// What a file is.
///
/// - `original`: the file as the model made it.
/// - `rendition`: the image in exactly the requested size and format.
/// - `thumbnail`: a small version of the rendition, for lists.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    strum::EnumString,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ArtifactKind {
    /// The file as the model made it.
    Original,
    /// The image in exactly the requested size and format.
    Rendition,
    /// A small version of the rendition, for lists.
    Thumbnail,
}

impl ArtifactKind {
    /// The name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A file we made and keep.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The artifact.
    pub id: ArtifactId,
    /// The job that made it.
    pub job: JobId,
    /// Which output of the job it belongs to, from 0.
    pub output_idx: i32,
    /// Original, rendition or thumbnail.
    pub kind: ArtifactKind,
    /// The file.
    pub file: StoredFile,
    /// Whether a fake provider made it: no AI model was called.
    pub synthetic: bool,
    /// SHA-256 of the content credentials (C2PA manifest store) in the file. Originals only.
    pub c2pa_sha256: Option<[u8; 32]>,
    /// When its row was written. `None` before that.
    pub created_at: Option<OffsetDateTime>,
}

impl Artifact {
    /// Name of the file for downloads: the job's name or else the artifact's id, the number of the
    /// output from the second one on, and the kind unless it is the rendition.
    pub fn file_name(&self, job_name: Option<&str>) -> String {
        let kind = match self.kind {
            ArtifactKind::Rendition => "",
            ArtifactKind::Original => " original",
            ArtifactKind::Thumbnail => " thumbnail",
        };
        let number = match self.output_idx {
            0 => String::new(),
            index => format!(" {}", index.saturating_add(1)),
        };
        let suffix = format!("{number}{kind}");
        file_name::file_name(
            job_name,
            &self.id.to_string(),
            &suffix,
            self.file.media_type,
        )
    }
}

/// Key under which an attempt stores a rendition. The fence is part of the key, so a worker that
/// lost its lease cannot overwrite the file of a later attempt.
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

/// Key under which an attempt stores the thumbnail of a rendition.
pub fn thumbnail_key(tenant: TenantId, job: JobId, fence: i32, output_idx: i32) -> String {
    format!(
        "t/{}/j/{}/{fence}/{output_idx}.thumbnail.webp",
        tenant.0, job.0
    )
}

/// Key of an input that the tenant sent in the body of the request. `index` is its place in
/// `inputs`.
pub fn input_key(tenant: TenantId, job: JobId, index: usize) -> String {
    format!("t/{}/j/{}/in/{index}", tenant.0, job.0)
}

/// A file name made from the last three parts of a key. For a rendition these are the job, the
/// attempt and the output. It is for links of older versions, which carry no file name. Every
/// character that is not an ASCII letter, a digit or a dot becomes a hyphen.
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
    fn a_file_name_is_the_end_of_its_key() {
        assert_eq!(file_name("t/1/j/2/3/0.png"), "2-3-0.png");
        assert_eq!(file_name("a\"b.png"), "a-b.png");
    }
}

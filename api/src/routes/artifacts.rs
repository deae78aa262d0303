//! Artifacts, as clients see them.

pub mod get;

use common::artifact::{Artifact, Role};
use common::bucket::LINK_LIFETIME;
use common::clock;
use common::generation::image::MediaType;
use common::id::{ArtifactId, JobId};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::app::App;
use crate::extract::Base;

/// A file we made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Artifact)]
pub struct ArtifactView {
    #[schema(value_type = String, example = "art_01kavm5pw8e0t9xqyp7x9r7m4b")]
    pub id: ArtifactId,
    #[schema(value_type = String, example = "job_01kavm5pw8e0t9xqyp7x9r7m4b")]
    pub job: JobId,
    #[schema(inline)]
    pub role: Role,
    /// Which output of the job it is, from 0.
    pub output: i32,
    #[schema(inline)]
    pub media_type: MediaType,
    pub width: u32,
    pub height: u32,
    pub bytes: i64,
    /// Made by a fake: no AI model was called.
    pub synthetic: bool,
    /// Where the file is, until `expires_at`; no key is needed.
    pub url: String,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

impl ArtifactView {
    /// With a fresh link.
    pub fn new(app: &App, base: &Base, artifact: &Artifact) -> Self {
        let expires_at = (clock::now() + LINK_LIFETIME)
            .replace_nanosecond(0)
            .expect("zero is a nanosecond");
        Self {
            id: artifact.id,
            job: artifact.job,
            role: artifact.role,
            output: artifact.output_idx,
            media_type: artifact.media_type,
            width: artifact.pixels.width,
            height: artifact.pixels.height,
            bytes: artifact.bytes,
            synthetic: artifact.synthetic,
            url: base.link(&app.bucket.link(&artifact.object_key, expires_at)),
            expires_at,
        }
    }
}

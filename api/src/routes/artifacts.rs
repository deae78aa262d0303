//! Artifacts, as clients see them.

pub mod content;
pub mod get;

use std::time::Duration;

use domain::artifact::{Artifact, ArtifactKind};
use domain::generation::image::MediaType;
use domain::id::{ArtifactId, JobId, TenantId};
use serde::Serialize;
use storage::database;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::app::App;
use crate::base_url::BaseUrl;
use crate::error::{Code, Problem, Result};
use crate::link::{File, FileLink};

/// A file that a job made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Artifact)]
pub struct ArtifactView {
    /// The id of the artifact.
    #[schema(value_type = String, example = "art_01kavm5pw8e0t9xqyp7x9r7m4b")]
    pub id: ArtifactId,
    /// The job that made it.
    #[schema(value_type = String, example = "job_01kavm5pw8e0t9xqyp7x9r7m4b")]
    pub job: JobId,
    /// Which kind of file this is.
    #[schema(inline)]
    pub role: ArtifactKind,
    /// The number of the job's output that the file belongs to, from 0.
    pub output: i32,
    /// The type of the file.
    #[schema(inline)]
    pub media_type: MediaType,
    /// The width in pixels.
    pub width: u32,
    /// The height in pixels.
    pub height: u32,
    /// The size of the file, in bytes.
    pub bytes: i64,
    /// Whether a fake provider made the file, so that no AI model was called.
    pub synthetic: bool,
    /// Only originals with content credentials (C2PA): the SHA-256 of their manifest store, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub c2pa_sha256: Option<String>,
    /// A link to the file, which works until `expires_at` and needs no key. Each answer has a fresh link.
    pub url: String,
    /// Until when `url` works.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// Paths that do not expire.
    pub links: Links,
}

/// Paths of an artifact. They do not expire and need a key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ArtifactLinks)]
pub struct Links {
    /// The path of the artifact.
    #[serde(rename = "self")]
    pub itself: String,
    /// The path that redirects to a fresh `url`.
    pub content: String,
}

impl ArtifactView {
    /// Describes an artifact, with a fresh link of the configured lifetime. A browser saves the file under a name that begins with
    /// the name of its job, if the job has one.
    pub async fn new(
        app: &App,
        base: &BaseUrl,
        artifact: &Artifact,
        job_name: Option<&str>,
    ) -> Self {
        Self::with_link_lifetime(app, base, artifact, job_name, app.link_lifetime).await
    }

    /// Does the same as [`Self::new`], with a link that works for `lifetime`.
    pub async fn with_link_lifetime(
        app: &App,
        base: &BaseUrl,
        artifact: &Artifact,
        job_name: Option<&str>,
        lifetime: Duration,
    ) -> Self {
        let file = File {
            key: &artifact.file.object_key,
            media_type: artifact.file.media_type,
            name: &artifact.file_name(job_name),
        };
        let fresh = FileLink::to(app, base, file, lifetime).await;
        let itself = format!("/v1/artifacts/{}", artifact.id);
        Self {
            id: artifact.id,
            job: artifact.job,
            role: artifact.kind,
            output: artifact.output_idx,
            media_type: artifact.file.media_type,
            width: artifact.file.pixels.width,
            height: artifact.file.pixels.height,
            bytes: artifact.file.bytes,
            synthetic: artifact.synthetic,
            c2pa_sha256: artifact.c2pa_sha256.map(hex::encode),
            url: fresh.url,
            expires_at: fresh.expires_at,
            links: Links {
                content: format!("{itself}/content"),
                itself,
            },
        }
    }
}

/// Finds an artifact of the tenant, and the name of its job, if the job has one. The problem says whether the artifact was deleted
/// or never existed.
async fn find(app: &App, tenant: TenantId, id: ArtifactId) -> Result<(Artifact, Option<String>)> {
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    if let Some(artifact) = storage::artifacts::get(&mut transaction, id).await? {
        let job = storage::jobs::get(&mut transaction, artifact.job).await?;
        return Ok((artifact, job.and_then(|job| job.attributes.name)));
    }
    if storage::artifacts::is_gone(&mut transaction, id).await? {
        let detail = format!("{id} was deleted because its retention time ended.");
        return Err(Problem::new(Code::Gone, detail));
    }
    Err(Problem::no_such("artifact", id))
}

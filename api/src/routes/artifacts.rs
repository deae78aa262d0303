//! Artifacts, as clients see them.

pub mod content;
pub mod get;

use std::time::Duration;

use common::artifact::{self, Artifact, ArtifactKind};
use common::generation::image::MediaType;
use common::id::{ArtifactId, JobId, TenantId};
use common::{database, job};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::app::App;
use crate::base_url::BaseUrl;
use crate::error::{Code, Problem, Result};
use crate::link::{File, FileLink};

/// A file we made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Artifact)]
pub struct ArtifactView {
    #[schema(value_type = String, example = "art_01kavm5pw8e0t9xqyp7x9r7m4b")]
    pub id: ArtifactId,
    #[schema(value_type = String, example = "job_01kavm5pw8e0t9xqyp7x9r7m4b")]
    pub job: JobId,
    #[schema(inline)]
    pub role: ArtifactKind,
    /// Which output of the job it is, from 0.
    pub output: i32,
    #[schema(inline)]
    pub media_type: MediaType,
    pub width: u32,
    pub height: u32,
    pub bytes: i64,
    /// Made by a fake: no AI model was called.
    pub synthetic: bool,
    /// Of an original that carries content credentials (C2PA): the SHA-256 of their manifest store, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub c2pa_sha256: Option<String>,
    /// Where the file is, until `expires_at`; no key is needed. Each answer has a fresh one.
    pub url: String,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    pub links: Links,
}

/// Where a file is for good, for whoever has a key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ArtifactLinks)]
pub struct Links {
    #[serde(rename = "self")]
    pub itself: String,
    /// Leads to a fresh `url`.
    pub content: String,
}

impl ArtifactView {
    /// With a fresh link, as long-lived as the owner of this Platen wants. The file is called after its job.
    pub async fn new(
        app: &App,
        base: &BaseUrl,
        artifact: &Artifact,
        job_name: Option<&str>,
    ) -> Self {
        Self::linked_for(app, base, artifact, job_name, app.link_lifetime).await
    }

    /// With a link that works for `lifetime`.
    pub async fn linked_for(
        app: &App,
        base: &BaseUrl,
        artifact: &Artifact,
        job_name: Option<&str>,
        lifetime: Duration,
    ) -> Self {
        let file = File {
            key: &artifact.object_key,
            media_type: artifact.media_type,
            name: &artifact.file_name(job_name),
        };
        let fresh = FileLink::to(app, base, file, lifetime).await;
        let itself = format!("/v1/artifacts/{}", artifact.id);
        Self {
            id: artifact.id,
            job: artifact.job,
            role: artifact.kind,
            output: artifact.output_idx,
            media_type: artifact.media_type,
            width: artifact.pixels.width,
            height: artifact.pixels.height,
            bytes: artifact.bytes,
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

/// An artifact of the tenant's with its job's name, or what has become of it.
async fn find(app: &App, tenant: TenantId, id: ArtifactId) -> Result<(Artifact, Option<String>)> {
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    if let Some(artifact) = artifact::store::get(&mut transaction, id).await? {
        let job = job::store::get(&mut transaction, artifact.job).await?;
        return Ok((artifact, job.and_then(|job| job.name)));
    }
    if artifact::store::is_gone(&mut transaction, id).await? {
        let detail = format!("{id} was deleted: its time was over.");
        return Err(Problem::new(Code::Gone, detail));
    }
    Err(Problem::no_such("artifact", id))
}

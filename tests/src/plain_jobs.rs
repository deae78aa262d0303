//! Works on jobs as a worker does, but makes no images: what is left is what Postgres does for a job. The rows name files
//! that do not exist.

use common::dispatch::SearchMarks;
use common::settlement::{self, Delivery, Lease};
use domain::artifact::{Artifact, ArtifactKind, rendition_key, thumbnail_key};
use domain::call::{Ending, original_key};
use domain::catalog::Lane;
use domain::generation::image::{Format, MediaType, Pixels};
use domain::id::{ArtifactId, CallId, JobId};
use domain::job::{Capacity, Claimed, ModelCapacity};
use domain::outcome::Class;
use domain::stored_file::StoredFile;
use futures::future::join_all;
use sqlx::PgPool;
use storage::calls::NewCall;
use storage::database::{self, DatabaseRole};

use crate::Pipeline;
use crate::pipeline::small_job;

/// Jobs that are worked on at the same time.
const AT_ONCE: usize = 8;

/// A worker without images.
pub struct PlainWorker {
    /// Its connections to Postgres.
    pub pool: PgPool,
    marks: SearchMarks,
    capacity: Capacity,
    lane: Lane,
}

impl PlainWorker {
    /// Connects to the database of a pipeline. Works on jobs as [`small_job`] makes them.
    ///
    /// # Panics
    ///
    /// The database cannot be reached, or the catalogue lacks the model.
    pub async fn start(pipeline: &Pipeline, connections: u32) -> Self {
        let url = pipeline.servers.runtime_url(&pipeline.database);
        let pool = database::connect(&url, DatabaseRole::Worker, connections).await;
        let catalog = pipeline.config.catalog().unwrap();
        let job = small_job();
        let model = catalog.get(job["model"].as_str().unwrap()).unwrap();
        Self {
            pool: pool.unwrap(),
            marks: SearchMarks::default(),
            capacity: Capacity::new([ModelCapacity {
                model: model.id.clone(),
                jobs_on_all_lanes: 1_000,
                jobs_on_first_lane: 1_000,
            }]),
            lane: model.lane().clone(),
        }
    }

    /// Searches for due jobs once, and works on those that are found. Returns how many.
    ///
    /// # Errors
    ///
    /// Postgres fails.
    ///
    /// # Panics
    ///
    /// A job that was due could not be claimed, or one of its steps changed nothing.
    pub async fn work(&self) -> sqlx::Result<usize> {
        let limit = i64::try_from(AT_ONCE).unwrap_or(i64::MAX);
        let due = self.marks.search(&self.pool, limit, &self.capacity).await?;
        let ended = join_all(due.iter().map(|(job, _)| self.deliver(*job))).await;
        ended.into_iter().collect::<sqlx::Result<Vec<()>>>()?;
        Ok(due.len())
    }

    /// Works on one job, from its claim to its settlement.
    async fn deliver(&self, job: JobId) -> sqlx::Result<()> {
        let delivery = self.make(job).await?;
        let settled = settlement::deliver(&self.pool, &delivery).await;
        settled.expect("the hold is as it should be");
        Ok(())
    }

    /// Does everything for a job up to its settlement.
    ///
    /// # Errors
    ///
    /// Postgres fails.
    ///
    /// # Panics
    ///
    /// The job cannot be claimed, or one of its steps changed nothing.
    pub async fn make(&self, job: JobId) -> sqlx::Result<Delivery> {
        let claimed = self.claim(job).await?;
        let call = CallId::new();
        let new = NewCall {
            id: call,
            tenant: claimed.tenant,
            job,
            fence: claimed.fence,
            output_idx: 0,
            lane: &self.lane,
            cost_micros: 1,
        };
        assert!(storage::calls::begin(&self.pool, &new).await?);
        let original = file(original_key(claimed.tenant, call));
        let ending = Ending {
            outcome: Class::Ok,
            detail: None,
            reason: None,
            provider_request_id: None,
            usage: None,
            cost_micros: Some(1),
            original: Some(&original),
        };
        let ended = storage::calls::end(&self.pool, claimed.tenant, job, call, &ending).await?;
        assert!(ended.has_ended);
        let lease = Lease {
            tenant: claimed.tenant,
            job,
            fence: claimed.fence,
        };
        Ok(Delivery {
            lease,
            artifacts: artifacts(&claimed, original).into(),
            shortfall: None,
        })
    }

    /// Claims a job that is due.
    ///
    /// # Errors
    ///
    /// Postgres fails.
    ///
    /// # Panics
    ///
    /// The job cannot be claimed.
    pub async fn claim(&self, job: JobId) -> sqlx::Result<Claimed> {
        let lease = std::time::Duration::from_mins(1);
        let claim = storage::jobs::claim(&self.pool, job, "plain", lease, &self.capacity).await?;
        let claim = claim.expect("the job is due");
        assert!(
            claim.first_request.is_some(),
            "the request came with the claim"
        );
        Ok(claim.claimed)
    }
}

fn artifacts(claimed: &Claimed, original: StoredFile) -> [Artifact; 3] {
    let Claimed {
        id: job,
        tenant,
        fence,
        ..
    } = *claimed;
    let rendition = rendition_key(tenant, job, fence, 0, Format::Png);
    [
        (ArtifactKind::Rendition, file(rendition)),
        (
            ArtifactKind::Thumbnail,
            file(thumbnail_key(tenant, job, fence, 0)),
        ),
        (ArtifactKind::Original, original),
    ]
    .map(|(kind, file)| Artifact {
        id: ArtifactId::new(),
        job,
        output_idx: 0,
        kind,
        file,
        synthetic: true,
        c2pa_sha256: None,
        created_at: None,
    })
}

fn file(object_key: String) -> StoredFile {
    StoredFile {
        object_key,
        sha256: [7; 32],
        bytes: 1_000,
        media_type: MediaType::Png,
        pixels: Pixels {
            width: 1_024,
            height: 1_024,
        },
    }
}

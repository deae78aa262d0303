//! `POST /v1/jobs`: asks for pictures.
//!
//! The request is understood, quoted and admitted in one transaction, which holds the credits; only then is
//! Redis rung, and nobody waits for it. Read [`common::admission`] next.

pub mod draft;
pub mod options;
pub mod pictures;
mod rendering;
mod violations;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use common::admission::{self, Admission, Admitted, Refusal};
use common::bucket::BucketError;
use common::credits::{Credits, Quote};
use common::id::{JobId, TenantId, UploadId};
use common::idempotency::{self, Answer};
use common::job::{Cost, Job};
use common::upload::{self, Upload};
use common::{clock, database, dispatch, ledger};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{JobView, load_view};
use crate::app::App;
use crate::auth::Tenant;
use crate::base_url::BaseUrl;
use crate::error::{Code, Problem, ProblemBody, Result};
use crate::extract::{self, JsonBody};
use crate::idempotency::Key;
use draft::{CreateJob, JobDraft};
use options::SubmitOptions;
pub use options::{CANCEL_AFTER, PREFER, Prefer};
use pictures::{InputBody, Picture, Sources};

/// What a job would cost at most. Nothing was written.
#[derive(Debug, Serialize, ToSchema)]
pub struct DryRun {
    /// `held` is what admission would hold.
    pub cost: Cost,
    /// Pictures asked for.
    pub outputs: u32,
}

/// Ask for pictures
///
/// The price of everything asked for is held; only what is delivered is charged, and the rest comes back at once.
#[utoipa::path(
    post,
    path = "/v1/jobs",
    operation_id = "create_job",
    tag = "jobs",
    security(("key" = [])),
    params(SubmitOptions),
    request_body = CreateJob,
    responses(
        (status = 200, description = "With `dry_run=true` the quote; with `Prefer: wait` the job, when it ended in time", body = DryRunOrJob),
        (status = 202, description = "The job was accepted and its credits are held", body = JobView,
            headers(("Location" = String, description = "Where the job is"), ("Idempotency-Key" = String), ("Idempotent-Replayed" = Option<bool>))),
        (status = 400, description = "Not JSON, or a header or parameter is not usable", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "An API key is needed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 402, description = "The credits do not suffice: `needed` and `available` say how many are missing", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "This tenant may not submit at present", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such model", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "There is no room for its pictures (`storage_full`), or no more calls may be abandoned and its `Cancel-After` is short (`cancel_allowance_used`, with `Retry-After`)", body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, description = "An upload it names was deleted in this moment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "More than 29 MiB", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The request cannot be carried out as it is: `errors` says why, place by place", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Repeat it with the same key after `Retry-After` seconds", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    key: Key,
    terms: SubmitOptions,
    base: BaseUrl,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let request = key.request("POST", "/v1/jobs", &body);
    // First of all: prices and models may have changed since this request was answered.
    if key.sent
        && !terms.dry_run
        && let Some(answer) = answered_before(&app, tenant, &request).await?
    {
        return Ok(repeated(&app, &base, tenant, &key, &terms, answer).await);
    }

    let (id, now) = (JobId::new(), clock::now());
    // As long as the pictures are in memory, the body's room is theirs.
    let room = body.clone();
    let mut body: CreateJob = off_thread(move || extract::json(&body)).await??;
    let pictures = body.take_inputs();
    // Before anything is made of them: what is put into another's bucket is lost.
    if !pictures.is_empty() && !terms.dry_run {
        app.owner.usable().await?;
    }
    let uploads = uploads(&app, tenant, &pictures).await?;
    let mut sources = off_thread(move || Sources::read(pictures, &uploads)).await?;
    let mut asked = JobDraft::read(body, sources.unopened(tenant, id), now);
    let mut quote = asked.quote(&app.catalog, now.date())?;
    if sources.has_files() {
        if !terms.dry_run {
            may_submit(&app, tenant, &quote).await?;
        }
        let share = app.shares.of(tenant);
        let pictures = sources.clean(&app.budget, &share, tenant, id).await?;
        asked.take_pictures(pictures);
        quote = asked.quote(&app.catalog, now.date())?;
    }
    if terms.dry_run {
        return Ok(Json(DryRun::of(&quote)?).into_response());
    }

    store(&app, &asked.files).await?;
    let timeout = app.catalog.get(&asked.model).map(|model| model.timeout);
    drop(room);
    let admission = Admission {
        tenant,
        idempotency: request,
        job: id,
        model: asked.model,
        name: asked.name,
        metadata: asked.metadata,
        request_id: terms.request_id.clone(),
        traceparent: terms.traceparent.clone(),
        generation: asked.generation,
        quote,
        priority: asked.priority,
        run_at: asked.run_at,
        cancel_after: terms.cancel_after,
        model_timeout: timeout.unwrap_or_default(),
        fallback: asked.fallback,
        switched_from: asked.switched_from,
        redrive: None,
        unpaid: app.unpaid,
    };
    let accepted = |job: &Job| JobView::new(job, Vec::new()).answer(StatusCode::ACCEPTED);
    let admitted = match app.wallet(tenant).await {
        Ok(connection) => admission::admit(&connection, &admission, accepted).await,
        Err(overloaded) => {
            discard(&app, &asked.files).await;
            return Err(overloaded);
        }
    };
    // After a lost connection the job may stand, and needs its pictures: only what is surely no job is cleared away.
    if !matches!(
        admitted,
        Ok(Admitted::New { .. }) | Err(Refusal::Database(_))
    ) {
        discard(&app, &asked.files).await;
    }
    match admitted? {
        Admitted::Repeated(answer) => Ok(repeated(&app, &base, tenant, &key, &terms, answer).await),
        Admitted::New { job, answer } => {
            // A job for later is rung by a worker's dispatcher when it is due.
            if let Some(asked) = &job.switched_from {
                tracing::info!(job.id = %job.id, asked, model = job.model, "The model asked for was shut down; its successor was taken and quoted, as the client wants it");
            }
            if job.run_after <= job.created_at {
                let app = Arc::clone(&app);
                app.tasks.clone().spawn(async move {
                    dispatch::push_new(&app.ready_queue, &app.lanes, &app.catalog, &job).await;
                });
            }
            let (answer, prefer) = waited(&app, &base, tenant, id, terms.prefer, answer).await;
            Ok(applied(key.answer(answer), prefer))
        }
    }
}

/// A request that was answered before waits for its job as the first one did.
async fn repeated(
    app: &App,
    base: &BaseUrl,
    tenant: TenantId,
    key: &Key,
    terms: &SubmitOptions,
    answer: Answer,
) -> Response {
    let location = answer
        .location
        .as_deref()
        .and_then(|path| path.rsplit('/').next());
    let (answer, prefer) = match location.and_then(|id| id.parse().ok()) {
        Some(id) => waited(app, base, tenant, id, terms.prefer, answer).await,
        None => (answer, terms.prefer),
    };
    applied(key.replay(answer), prefer)
}

/// The ended job, where the client waits for it and it ends in time; else the answer there is. Then what of the preferences was done:
/// nobody waits where as many requests of this tenant do as may.
async fn waited(
    app: &App,
    base: &BaseUrl,
    tenant: TenantId,
    id: JobId,
    prefer: Prefer,
    answer: Answer,
) -> (Answer, Prefer) {
    let Some(wait) = prefer.wait else {
        return (answer, prefer);
    };
    let Some(_waiter) = app.shares.of(tenant).waiter() else {
        return (answer, prefer.without_wait());
    };
    let ended = ended_within(app, base, tenant, id, wait).await;
    (
        ended.map_or(answer, |job| job.answer(StatusCode::OK)),
        prefer,
    )
}

fn applied(mut response: Response, prefer: Prefer) -> Response {
    let applied = prefer.applied();
    if let Some(applied) = applied.and_then(|applied| HeaderValue::try_from(applied).ok()) {
        let name = HeaderName::from_static("preference-applied");
        response.headers_mut().insert(name, applied);
    }
    response
}

/// Megabytes of base64 would stall every other request of this thread.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Code::Internal.into())
}

/// The answer to the first request like this one, where it was answered.
async fn answered_before(
    app: &App,
    tenant: TenantId,
    request: &idempotency::Request,
) -> Result<Option<Answer>> {
    let connection = app.connection(tenant).await?;
    Ok(admission::answered_before(&connection, tenant, request).await?)
}

/// Whether the tenant may submit and has the credits, as far as a look without a lock tells. Admission decides; this spares the work
/// on pictures of what would surely be refused.
async fn may_submit(app: &App, tenant: TenantId, quote: &Quote) -> Result<()> {
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let wallet = ledger::store::wallet(&mut transaction, tenant).await?;
    let needed = quote.hold().map_err(Refusal::from)?;
    let wallet = wallet.filter(|wallet| wallet.active);
    let available = wallet.ok_or(Refusal::Inactive)?.available;
    if available < needed {
        return Err(Refusal::InsufficientCredits { needed, available }.into());
    }
    Ok(())
}

/// The uploads that the pictures name and the tenant has.
async fn uploads(
    app: &App,
    tenant: TenantId,
    pictures: &[InputBody],
) -> Result<HashMap<UploadId, Upload>> {
    let ids: Vec<UploadId> = pictures.iter().filter_map(InputBody::upload).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let found = upload::store::some(&mut transaction, &ids).await?;
    transaction.commit().await?;
    Ok(found
        .into_iter()
        .map(|upload| (upload.id, upload))
        .collect())
}

impl DryRun {
    fn of(quote: &Quote) -> Result<Self> {
        Ok(Self {
            cost: Cost {
                unit_price: quote.unit_price,
                price_version: quote.price_version.clone(),
                held: quote.hold().map_err(|_| Problem::from(Code::Internal))?,
                captured: Credits::ZERO,
                released: Credits::ZERO,
                refunded: Credits::ZERO,
            },
            outputs: quote.outputs,
        })
    }
}

/// Puts the pictures where the job's worker will look for them: before the row that names them.
async fn store(app: &App, pictures: &[Picture]) -> std::result::Result<(), BucketError> {
    for (stored, picture) in pictures.iter().enumerate() {
        if let Err(error) = app
            .bucket
            .put_new(&picture.object_key, picture.bytes.clone())
            .await
        {
            discard(app, &pictures[..stored]).await;
            return Err(error);
        }
    }
    if pictures.is_empty() {
        return Ok(());
    }
    let still_ours = app.owner.usable_since(Instant::now()).await;
    if still_ours.is_err() {
        discard(app, pictures).await;
    }
    still_ours
}

/// Takes the pictures away again: there is no job that would look for them.
async fn discard(app: &App, pictures: &[Picture]) {
    for picture in pictures {
        if let Err(error) = app.bucket.delete(&picture.object_key).await {
            tracing::warn!(%error, key = picture.object_key, "A picture of no job stays in the bucket");
        }
    }
}

/// The job once it has ended, if that is soon enough. The job stands already, so trouble here is no failure:
/// the client looks for itself.
async fn ended_within(
    app: &App,
    base: &BaseUrl,
    tenant: TenantId,
    id: JobId,
    wait: Duration,
) -> Option<JobView> {
    tokio::select! {
        () = app.waiters.ended(&app.reader, id) => {}
        () = tokio::time::sleep(wait) => return None,
        () = app.stopping.cancelled() => return None,
    }
    load_view(app, base, tenant, id).await.ok().flatten()
}

/// The quote, or the job that ended in time.
#[derive(ToSchema)]
#[schema(as = DryRunOrJob)]
#[serde(untagged)]
pub enum DryRunOrJob {
    DryRun(DryRun),
    Job(Box<JobView>),
}

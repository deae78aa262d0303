//! `POST /v1/jobs`: submits a job.
//!
//! The request is parsed and quoted. Then one transaction admits the job and holds its credits. Only after the commit the job is
//! pushed to the ready queue, in the background. So an outage of Redis delays the job but does not fail the request. Read
//! [`common::admission`] next.

pub mod draft;
pub mod inputs;
pub mod options;
mod rendering;
mod violations;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bucket::BucketError;
use bytes::Bytes;
use common::admission::{self, Admission, AdmissionError, Admitted};
use common::dispatch;
use domain::clock;
use domain::credits::{Credits, Quote};
use domain::id::{JobId, TenantId, UploadId};
use domain::idempotency::{self, Answer};
use domain::job::{Cost, Job};
use domain::upload::Upload;
use serde::Serialize;
use storage::database;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{JobView, load_view};
use crate::app::App;
use crate::auth::Principal;
use crate::base_url::BaseUrl;
use crate::error::{Code, Problem, Result};
use crate::extract::{self, JsonBody};
use crate::idempotency::IdempotencyKey;
use crate::submits::SubmitError;
use draft::{CreateJob, JobDraft};
use inputs::{InputBody, InputFile, Sources};
use options::SubmitOptions;
pub use options::{CANCEL_AFTER, PREFER, Prefer};

/// The size up to which a body is parsed on the thread of its request, in bytes. To hand it to another thread would take longer
/// than to parse it.
const SMALL_BODY: usize = 16 * 1024;

/// The most a job would cost. Nothing was written.
#[derive(Debug, Serialize, ToSchema)]
pub struct DryRun {
    /// The cost; `held` is what would be held if the job was submitted.
    pub cost: Cost,
    /// How many outputs were asked for.
    pub outputs: u32,
}

/// Submit a job
///
/// The price of all outputs is held. Only delivered outputs are charged. The rest is released as soon as the job ends.
#[utoipa::path(
    post,
    path = "/v1/jobs",
    operation_id = "create_job",
    tag = "jobs",
    security(("key" = [])),
    params(SubmitOptions),
    request_body = CreateJob,
    responses(
        (status = 200, description = "With `dry_run=true` the quote; with `Prefer: wait` the job, if it ended in time", body = DryRunOrJob),
        (status = 202, description = "The job was accepted, and its credits are held", body = JobView,
            headers(
                ("Location" = String, description = "The path of the job"),
                ("Idempotency-Key" = String, description = "The key that was sent or generated"),
                ("Idempotent-Replayed" = Option<bool>, description = "`true` if this is the stored answer to an earlier request"),
            )),
        (status = 400, description = "The body is not JSON, or a header or a parameter is not usable"),
        (status = 401, description = "The API key is missing or not valid"),
        (status = 402, description = "There are not enough credits: `needed` and `available` say how many are missing"),
        (status = 403, description = "This tenant may not submit jobs at present"),
        (status = 404, description = "There is no such model"),
        (status = 409, description = "The input images would exceed the storage limit (`storage_full`), or no more calls may be abandoned and `Cancel-After` is shorter than a call may take (`cancel_allowance_used`, with `Retry-After`)"),
        (status = 410, description = "An upload of the job was deleted while the job was being submitted"),
        (status = 413, description = "The body has more than 29 MiB"),
        (status = 422, description = "The request is not valid: `errors` says what is wrong at which place"),
        (status = 503, description = "The service cannot answer: repeat the request with the same key after `Retry-After` seconds"),
    )
)]
pub async fn handler(
    State(app): State<Arc<App>>,
    Principal { tenant, .. }: Principal,
    key: IdempotencyKey,
    options: SubmitOptions,
    base: BaseUrl,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let request = key.request("POST", "/v1/jobs", &body);
    // Only a request whose client sent a key can have been answered before.
    let repeatable = (key.sent && !options.dry_run).then_some(&request);
    let id = JobId::new();
    // The decoded images take memory, too. The memory permit of the body covers them, so the body is held until they are stored.
    let memory_permit = body.clone();
    let drafted = draft_and_quote(&app, tenant, id, body, options.dry_run, repeatable).await;
    let (draft, quote) = match drafted {
        Ok(Drafted::Quoted(draft, quote)) => (*draft, quote),
        Ok(Drafted::AnsweredBefore(answer)) => {
            return Ok(answer_again(&app, &base, tenant, &key, &options, answer).await);
        }
        // Prices and models may have changed since this request was first answered. So the stored answer is looked up before a
        // mistake is reported. A request without a mistake is looked up in its admission, without another query.
        Err(problem) => {
            return match answered_before(&app, tenant, repeatable).await? {
                Some(answer) => Ok(answer_again(&app, &base, tenant, &key, &options, answer).await),
                None => Err(problem),
            };
        }
    };
    if options.dry_run {
        return Ok(Json(DryRun::from_quote(&quote)?).into_response());
    }

    store(&app, &draft.files).await?;
    // The model was quoted, so the catalogue has it.
    let model_timeout = app
        .catalog
        .get(&draft.attributes.model)
        .map(|model| model.timeout);
    drop(memory_permit);
    let admission = Admission {
        tenant,
        idempotency: request,
        job: id,
        attributes: draft.attributes,
        request_id: options.request_id.clone(),
        traceparent: options.traceparent.clone(),
        generation: draft.generation,
        quote,
        run_at: draft.run_at,
        cancel_after: options.cancel_after,
        model_timeout: model_timeout.unwrap_or_default(),
        redrive: None,
        unbilled_limits: app.unbilled_limits,
    };
    let make_answer = |job: &Job| JobView::new(job, Vec::new()).answer(StatusCode::ACCEPTED);
    let admitted = app.admit(admission, make_answer).await;
    // After a database error the commit may have succeeded, and the job would need its files. So they are deleted only if it is
    // certain that there is no job.
    if !matches!(
        admitted,
        Ok(Admitted::New { .. }) | Err(SubmitError::Refused(AdmissionError::Database(_)))
    ) {
        discard(&app, &draft.files).await;
    }
    match admitted? {
        Admitted::Repeated(answer) => {
            Ok(answer_again(&app, &base, tenant, &key, &options, answer).await)
        }
        Admitted::New { job, answer } => {
            if let Some(asked) = &job.attributes.switched_from {
                tracing::info!(job.id = %job.id, asked, model = job.attributes.model, "The requested model was shut down; its successor was quoted and used, as the client allowed");
            }
            // A job that was planned for later (`run_at`) is pushed by a worker's dispatcher when it is due.
            if job.run_after <= job.created_at {
                let app = Arc::clone(&app);
                app.tasks.clone().spawn(async move {
                    dispatch::push_new(&app.lanes, &app.catalog, &job).await;
                });
            }
            let (answer, prefer) =
                wait_if_preferred(&app, &base, tenant, id, options.prefer, answer).await;
            Ok(with_preference_applied(key.answer(answer), prefer))
        }
    }
}

/// What became of the body of a request.
enum Drafted {
    /// It is a job, and this is its quote.
    Quoted(Box<JobDraft>, Quote),
    /// The request was answered before. This was looked up before the work on its images.
    AnsweredBefore(Answer),
}

/// Parses and quotes a job, and decodes the images in its body. `repeatable` is the request if it may have been answered before.
///
/// Decoding images is expensive. So everything else is checked first, and the job is quoted again afterwards.
async fn draft_and_quote(
    app: &App,
    tenant: TenantId,
    id: JobId,
    body: Bytes,
    dry_run: bool,
    repeatable: Option<&idempotency::Request>,
) -> Result<Drafted> {
    let now = clock::now();
    let mut body: CreateJob = if body.len() <= SMALL_BODY {
        extract::json(&body)?
    } else {
        off_thread(move || extract::json(&body)).await??
    };
    let inputs = body.take_inputs();
    if inputs.is_empty() {
        let mut no_sources = Sources::read(inputs, &HashMap::new());
        let mut draft = JobDraft::read(body, no_sources.before_decoding(tenant, id), now);
        let quote = draft.quote(&app.catalog, now.date())?;
        return Ok(Drafted::Quoted(Box::new(draft), quote));
    }
    // Otherwise the inputs of a repeated request would be decoded and stored again.
    if let Some(answer) = answered_before(app, tenant, repeatable).await? {
        return Ok(Drafted::AnsweredBefore(answer));
    }
    // This is checked before any work on the images, because files in another database's bucket would be lost.
    if !dry_run {
        app.owner.must_be_usable().await?;
    }
    let uploads = load_uploads(app, tenant, &inputs).await?;
    let mut sources = off_thread(move || Sources::read(inputs, &uploads)).await?;
    let mut draft = JobDraft::read(body, sources.before_decoding(tenant, id), now);
    let mut quote = draft.quote(&app.catalog, now.date())?;
    if sources.has_files() {
        if !dry_run {
            check_credits(app, tenant, &quote).await?;
        }
        let share = app.shares.for_tenant(tenant);
        let inputs = sources.clean(&app.budget, &share, tenant, id).await?;
        draft.replace_inputs(inputs);
        quote = draft.quote(&app.catalog, now.date())?;
    }
    Ok(Drafted::Quoted(Box::new(draft), quote))
}

/// Answers a repeated request with the stored `answer`. With `Prefer: wait` it waits for the job, as the first request did.
async fn answer_again(
    app: &App,
    base: &BaseUrl,
    tenant: TenantId,
    key: &IdempotencyKey,
    options: &SubmitOptions,
    answer: Answer,
) -> Response {
    // `Location` is the path of the job, which ends with its id.
    let id = answer
        .location
        .as_deref()
        .and_then(|path| path.rsplit('/').next());
    let (answer, prefer) = match id.and_then(|id| id.parse().ok()) {
        Some(id) => wait_if_preferred(app, base, tenant, id, options.prefer, answer).await,
        None => (answer, options.prefer),
    };
    with_preference_applied(key.replay(answer), prefer)
}

/// Waits for the job if the client prefers that. Returns the ended job, or the given answer if the job did not end in time. Also
/// returns the preferences that were applied. A request does not wait if too many requests of its tenant wait already.
async fn wait_if_preferred(
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
    let Some(_waiter) = app.shares.for_tenant(tenant).waiter() else {
        return (answer, prefer.without_wait());
    };
    let ended = wait_for_end(app, base, tenant, id, wait).await;
    (
        ended.map_or(answer, |job| job.answer(StatusCode::OK)),
        prefer,
    )
}

/// Adds `Preference-Applied` (RFC 7240, 3), with the preferences in `prefer`, if there are any.
fn with_preference_applied(mut response: Response, prefer: Prefer) -> Response {
    let applied = prefer.applied();
    if let Some(applied) = applied.and_then(|applied| HeaderValue::try_from(applied).ok()) {
        let name = HeaderName::from_static("preference-applied");
        response.headers_mut().insert(name, applied);
    }
    response
}

/// Runs work on a thread for blocking work, because parsing megabytes of base64 would delay every other request of this thread.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Code::Internal.into())
}

/// The stored answer to an earlier request, if this one repeats it. A key that belongs to another request is an error. Without a
/// request nothing is looked up.
async fn answered_before(
    app: &App,
    tenant: TenantId,
    request: Option<&idempotency::Request>,
) -> Result<Option<Answer>> {
    let Some(request) = request else {
        return Ok(None);
    };
    let connection = app.connection(tenant).await?;
    Ok(admission::answered_before(&connection, tenant, request).await?)
}

/// Checks without a lock whether the tenant may submit and has enough credits. This only saves the work on images of a job that
/// would be refused. Admission checks again, with the lock.
async fn check_credits(app: &App, tenant: TenantId, quote: &Quote) -> Result<()> {
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let wallet = storage::ledger::wallet(&mut transaction, tenant).await?;
    let needed = quote.hold().map_err(AdmissionError::from)?;
    let wallet = wallet.filter(|wallet| wallet.may_submit);
    let available = wallet.ok_or(AdmissionError::Inactive)?.available;
    if available < needed {
        return Err(AdmissionError::InsufficientCredits { needed, available }.into());
    }
    Ok(())
}

/// Loads the tenant's uploads that the inputs name.
async fn load_uploads(
    app: &App,
    tenant: TenantId,
    inputs: &[InputBody],
) -> Result<HashMap<UploadId, Upload>> {
    let ids: Vec<UploadId> = inputs.iter().filter_map(InputBody::upload).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let connection = app.connection(tenant).await?;
    let mut transaction = database::begin_for(&connection, tenant).await?;
    let found = storage::uploads::find_existing(&mut transaction, &ids).await?;
    transaction.commit().await?;
    Ok(found
        .into_iter()
        .map(|upload| (upload.id, upload))
        .collect())
}

impl DryRun {
    fn from_quote(quote: &Quote) -> Result<Self> {
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

/// Stores the input images, before the row that names them is written. So a job in the database always finds its files. After an
/// error no file stays, as far as they can be deleted.
async fn store(app: &App, files: &[InputFile]) -> std::result::Result<(), BucketError> {
    for (stored_count, file) in files.iter().enumerate() {
        if let Err(error) = app
            .bucket
            .put_new(&file.object_key, file.bytes.clone())
            .await
        {
            discard(app, &files[..stored_count]).await;
            return Err(error);
        }
    }
    if files.is_empty() {
        return Ok(());
    }
    // Another database may have adopted the bucket in the meantime. Then the files are lost to us, and the job must not be
    // admitted. A check that began before the files were stored proves nothing.
    let still_ours = app.owner.must_be_usable_since(Instant::now()).await;
    if still_ours.is_err() {
        discard(app, files).await;
    }
    still_ours
}

/// Deletes the input images of a job that was not admitted.
async fn discard(app: &App, files: &[InputFile]) {
    for file in files {
        if let Err(error) = app.bucket.delete(&file.object_key).await {
            tracing::warn!(%error, key = file.object_key, "An input image without a job could not be deleted; it stays in the bucket until it is swept");
        }
    }
}

/// Waits up to `wait` for the end of the job, and returns the ended job. A failure is ignored, because the job is accepted already
/// and the client can ask for it.
async fn wait_for_end(
    app: &App,
    base: &BaseUrl,
    tenant: TenantId,
    id: JobId,
    wait: Duration,
) -> Option<JobView> {
    tokio::select! {
        () = app.waiters.wait_for_end(&app.reader, id) => {}
        () = tokio::time::sleep(wait) => return None,
        () = app.stopping.cancelled() => return None,
    }
    load_view(app, base, tenant, id).await.ok().flatten()
}

/// The quote of a dry run, or a job that ended in time.
#[derive(ToSchema)]
#[schema(as = DryRunOrJob)]
#[serde(untagged)]
pub enum DryRunOrJob {
    /// The quote, with `dry_run=true`.
    DryRun(DryRun),
    /// The ended job, with `Prefer: wait`.
    Job(Box<JobView>),
}

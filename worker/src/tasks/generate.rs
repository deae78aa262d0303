//! Works on one job, from its claim to its settlement.
//!
//! 1. Claim the job.
//! 2. Adopt the images that earlier attempts paid for.
//! 3. Poll the operations that a provider still works on.
//! 4. Buy what is missing, with one journaled call per output.
//! 5. Render every image to exactly the size of the request.
//! 6. Settle the job.
//!
//! Any worker may repeat each step at any time. The fence decides which attempt may still write.
//!
//! `output.rs` chooses between `adopt.rs`, `reconcile.rs` and `buy.rs`; `finish.rs` ends a call.
//! The model is called in `providers/`. To read on after that, see [`common::settlement`].

mod adopt;
mod attempt;
mod buy;
mod finish;
mod image;
mod lane_limiter;
mod output;
mod poll;
mod prior_calls;
mod reconcile;

use std::sync::atomic::AtomicI32;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use common::failpoint::reach;
use common::settlement::{self, Delivery, Lease, SettlementError, SettlementResult};
use domain::artifact::Artifact;
use domain::call::JournaledCall;
use domain::generation::Generation;
use domain::id::JobId;
use domain::job::{Claimed, DELIVERY_MARGIN};
use domain::outcome::{Class, Failure};
use futures::future::join_all;
use storage::database;
use storage::jobs::Claim;
use telemetry::{process, traces};
use tracing::Instrument;

use crate::app::App;
use crate::leases::HeldLease;
use attempt::{Attempt, OutputResult};

/// Claims a job, if it may be claimed, and works on it. `in_reserve` says that the job takes one of
/// the places of the worker's reserve. This function returns no error: every result is either
/// settled or left to the next attempt.
pub(super) async fn run(app: &App, id: JobId, in_reserve: bool) {
    if !app.spool.accepts_results() {
        // The id was popped before the bucket became unavailable. The dispatcher queues the job
        // again.
        return;
    }
    let claim_started = Instant::now();
    let claim_permit = app.slots.claim_permit(in_reserve).await;
    let capacity = app.capacity().without(app.slots.exclusions(in_reserve));
    let claim = storage::jobs::claim(&app.pool, id, &app.name, app.timing.lease, &capacity);
    let Claim {
        claimed,
        first_request,
    } = match database::with_timeout(claim).await {
        Ok(Some(claim)) => claim,
        // Another worker has the job, or the job has ended. Or its lanes are unavailable, or its
        // tenant has reached a limit. The dispatcher queues it again when this changes.
        Ok(None) => return,
        Err(error) => {
            return tracing::warn!(job.id = %id, %error, "Job {id} could not be claimed; the dispatcher will queue it again");
        }
    };
    let _slot = app.slots.occupy(&claimed, in_reserve);
    drop(claim_permit);
    telemetry::QUEUE_SECONDS
        .with_label_values(&[&claimed.model])
        .observe(claimed.waited_seconds);
    let span = tracing::info_span!("attempt", job.id = %id, request.id = claimed.request_id, attempt = claimed.fence, model = claimed.model);
    let trace = traces::attempt(
        id,
        claimed.fence,
        &claimed.model,
        claimed.traceparent.as_ref(),
    );
    run_until_hung(app, &claimed, first_request, claim_started)
        .instrument(span)
        .instrument(trace)
        .await;
}

/// Runs the attempt, and drops it if it hangs.
async fn run_until_hung(
    app: &App,
    claimed: &Claimed,
    first_request: Option<Generation>,
    claim_started: Instant,
) {
    let lease = Lease {
        tenant: claimed.tenant,
        job: claimed.id,
        fence: claimed.fence,
    };
    let held = app
        .leases
        .add(claimed.id, claimed.fence, claim_started, app.timing.lease);
    tokio::select! {
        () = run_attempt(app, claimed, first_request, claim_started, lease, &held) => {}
        () = held.wait_until_hung() => {
            tracing::error!("The attempt hung and was dropped; its lease will run out");
        }
    }
}

/// Works on the job and settles the result, unless the lease is lost meanwhile.
async fn run_attempt(
    app: &App,
    claimed: &Claimed,
    first_request: Option<Generation>,
    claim_started: Instant,
    lease: Lease,
    held: &HeldLease,
) {
    let work = work(app, claimed, first_request, held);
    let Some(result) = held.lost.run_until_cancelled(work).await else {
        return tracing::info!(
            "The attempt was dropped: the job was canceled, or another worker has it"
        );
    };
    let result = result.unwrap_or_else(|error| {
        tracing::warn!(
            error = format!("{error:#}"),
            "The attempt failed on our side"
        );
        AttemptResult::internal_failure(format!("{error:#}"))
    });
    let verdict = result.decide(claimed, claim_started, app.timing.retry);
    let _timed = process::start_step_timer("settle");
    let settled = (|| async {
        reach("generate:before_settle").await?;
        let settled = settle(app, lease, &verdict).await?;
        reach("generate:after_settle").await?;
        Ok(settled)
    })
    .retry(settlement_delays())
    .when(|error| matches!(error, SettlementError::Database(_)))
    .await;
    match settled {
        Ok(settled) => tracing::info!(
            outcome = verdict.outcome(),
            ?settled,
            duration_ms = claim_started.elapsed().as_millis(),
            "The attempt ended and was settled"
        ),
        Err(error) => {
            tracing::error!(%error, "The attempt could not be settled; its lease will run out and another attempt will settle the job");
        }
    }
}

/// The result of the attempt's work.
enum AttemptResult {
    /// The verdict does not depend on the time that is left.
    Decided(Verdict),
    /// Another attempt may make what is missing. If there is no time for another attempt,
    /// `artifacts` are delivered.
    Retry {
        failure: Failure,
        artifacts: Vec<Artifact>,
    },
    /// Nothing has failed, but there is nothing to do for `delay`: see [`OutputResult::Pending`].
    Pending {
        delay: Duration,
        artifacts: Vec<Artifact>,
    },
}

/// How the attempt is settled.
enum Verdict {
    /// Deliver the images. `shortfall` says why some are missing.
    Deliver {
        artifacts: Vec<Artifact>,
        shortfall: Option<Failure>,
    },
    /// There is nothing to deliver, and no attempt would change that.
    GiveUp(Failure),
    /// Start another attempt after this long, because of a failure.
    Retry(Duration, Failure),
    /// Start another attempt after this long. Nothing has failed.
    PutBack(Duration),
}

impl AttemptResult {
    fn give_up(class: Class, detail: impl AsRef<str>) -> Self {
        Self::Decided(Verdict::GiveUp(Failure::new(class, detail)))
    }

    /// Something failed on our side. Another attempt may succeed.
    fn internal_failure(detail: impl AsRef<str>) -> Self {
        Self::Retry {
            failure: Failure::new(Class::Internal, detail),
            artifacts: Vec::new(),
        }
    }

    /// Decides whether there is time for another attempt, and when it starts. If there is not, the
    /// job ends now. `(min_delay, max_delay)` are the bounds of [`retry_delay`].
    fn decide(
        self,
        claimed: &Claimed,
        claim_started: Instant,
        (min_delay, max_delay): (Duration, Duration),
    ) -> Verdict {
        // The number of seconds is negative if the deadline has passed.
        let time_left = Duration::try_from_secs_f64(claimed.seconds_left)
            .unwrap_or_default()
            .saturating_sub(claim_started.elapsed());
        match self {
            Self::Decided(verdict) => verdict,
            Self::Retry { failure, artifacts } => {
                let delay = if failure.class.contract().retry_on_other_lane {
                    // The failure concerns only its lane. Another lane can be called at once.
                    Duration::ZERO
                } else {
                    retry_delay(claimed.calls_made, min_delay, max_delay)
                        .max(failure.retry_after.unwrap_or_default().min(max_delay))
                };
                if artifacts.is_empty() && delay < time_left {
                    Verdict::Retry(delay, failure)
                } else if artifacts.is_empty() {
                    Verdict::GiveUp(failure)
                // A later attempt must still have the time to deliver these images.
                } else if delay + DELIVERY_MARGIN < time_left {
                    Verdict::Retry(delay, failure)
                } else {
                    Verdict::Deliver {
                        artifacts,
                        shortfall: Some(failure),
                    }
                }
            }
            // A job without any image waits until its deadline. A job with some images delivers
            // them before its deadline.
            Self::Pending { delay, artifacts } if artifacts.is_empty() => Verdict::PutBack(delay),
            Self::Pending { delay, .. } if DELIVERY_MARGIN < time_left => {
                Verdict::PutBack(delay.min(time_left.saturating_sub(DELIVERY_MARGIN)))
            }
            Self::Pending { artifacts, .. } => {
                let detail = "no time was left to wait for the other images";
                Verdict::Deliver {
                    artifacts,
                    shortfall: Some(Failure::new(Class::Expired, detail)),
                }
            }
        }
    }
}

impl Verdict {
    /// The outcome as the log shows it.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Deliver {
                shortfall: None, ..
            } => Class::Ok.as_str(),
            Self::Deliver {
                shortfall: Some(failure),
                ..
            }
            | Self::GiveUp(failure)
            | Self::Retry(_, failure) => failure.class.as_str(),
            Self::PutBack(_) => "pending",
        }
    }
}

/// Settles the attempt as the verdict says.
async fn settle(
    app: &App,
    lease: Lease,
    verdict: &Verdict,
) -> Result<SettlementResult, SettlementError> {
    match verdict {
        Verdict::Deliver {
            artifacts,
            shortfall,
        } => {
            let delivery = Delivery {
                lease,
                artifacts: artifacts.clone(),
                shortfall: shortfall.clone(),
            };
            deliver(app, delivery).await
        }
        Verdict::GiveUp(failure) => deliver(app, Delivery::nothing(lease, failure.clone())).await,
        Verdict::Retry(delay, failure) => {
            database::with_timeout(settlement::retry(&app.pool, lease, *delay, failure)).await
        }
        Verdict::PutBack(delay) => {
            database::with_timeout(settlement::put_back(&app.pool, lease, *delay)).await
        }
    }
}

/// Ends the job, perhaps together with other jobs of its tenant.
async fn deliver(app: &App, delivery: Delivery) -> Result<SettlementResult, SettlementError> {
    let siblings = app.slots.jobs_of(delivery.lease.tenant);
    let settled = app
        .settlements
        .deliver(&app.pool, &app.tasks, siblings, delivery);
    settled.await
}

/// Does everything between claim and settlement.
///
/// # Errors
///
/// Returns an error if something fails on our side. Another attempt may succeed.
async fn work(
    app: &App,
    claimed: &Claimed,
    first_request: Option<Generation>,
    lease: &HeldLease,
) -> anyhow::Result<AttemptResult> {
    // The number of seconds is negative if the deadline has passed.
    let deadline =
        Instant::now() + Duration::try_from_secs_f64(claimed.seconds_left).unwrap_or_default();
    database::with_timeout(reach("generate:after_claim")).await?;
    let (generation, journal) = match first_request {
        Some(generation) => (Some(generation), Vec::new()),
        None => database::with_timeout(load(app, claimed)).await?,
    };

    // The prompt may have been deleted at the end of its retention.
    let Some(Generation::Image(request)) = generation else {
        return Ok(AttemptResult::give_up(
            Class::BadRequest,
            "the job's request is gone",
        ));
    };
    let Some(model) = app.catalog.get(&claimed.model) else {
        return Ok(AttemptResult::give_up(
            Class::ModelRetired,
            format!("{} is no longer in the catalogue", claimed.model),
        ));
    };

    let attempt = Attempt {
        calls_left: AtomicI32::new(claimed.calls_left),
        app,
        claimed,
        lease,
        deadline,
        request: &request,
        model,
        journal: &journal,
    };
    let outputs = 0..claimed.n_requested;
    let results = join_all(outputs.map(|output_idx| attempt.output(output_idx))).await;
    // A failure on our side ends only its own output. The other outputs keep their images.
    let results = results.into_iter().map(|result| {
        result.unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "An output failed on our side");
            OutputResult::internal_failure(&error)
        })
    });
    Ok(combine(results.collect()))
}

/// Reads the request of a job, and the calls of its earlier attempts.
async fn load(
    app: &App,
    claimed: &Claimed,
) -> sqlx::Result<(Option<Generation>, Vec<JournaledCall>)> {
    let mut transaction = database::begin_for(&app.pool, claimed.tenant).await?;
    let generation = storage::jobs::request(&mut transaction, claimed.id).await?;
    let journal = storage::calls::of_job(&mut transaction, claimed.id).await?;
    transaction.commit().await?;
    Ok((generation, journal))
}

/// Combines the results of all outputs. An output that may still succeed keeps the job open. The
/// images of the other outputs are not lost then, because the next attempt uses them again.
fn combine(results: Vec<OutputResult>) -> AttemptResult {
    let mut artifacts = Vec::new();
    let mut shortfall: Option<Failure> = None;
    let mut retry: Option<Failure> = None;
    let mut pending: Option<Duration> = None;
    for result in results {
        match result {
            OutputResult::Stored(files) => artifacts.extend(*files),
            OutputResult::Missing {
                failure,
                may_retry: false,
            } => {
                shortfall.get_or_insert(failure);
            }
            OutputResult::Missing {
                failure,
                may_retry: true,
            } => {
                retry.get_or_insert(failure);
            }
            OutputResult::Pending(delay) => {
                pending = Some(pending.map_or(delay, |other| other.min(delay)));
            }
        }
    }
    match (retry, pending, shortfall) {
        (Some(failure), ..) => AttemptResult::Retry { failure, artifacts },
        (None, Some(delay), _) => AttemptResult::Pending { delay, artifacts },
        (None, None, Some(failure)) if artifacts.is_empty() => {
            AttemptResult::Decided(Verdict::GiveUp(failure))
        }
        (None, None, shortfall) => AttemptResult::Decided(Verdict::Deliver {
            artifacts,
            shortfall,
        }),
    }
}

/// The delay before the next attempt, at most `max_delay`. It grows exponentially from `min_delay`
/// with the number of calls that the job has made, and has jitter. Throttled calls do not count
/// here, because their lane delays the job.
fn retry_delay(calls_made: i32, min_delay: Duration, max_delay: Duration) -> Duration {
    let steps = usize::try_from(calls_made.saturating_add(1)).unwrap_or(1);
    let delays = ExponentialBuilder::default()
        .with_min_delay(min_delay)
        .with_max_delay(max_delay)
        .with_jitter()
        .with_max_times(steps)
        .build();
    // Jitter may exceed the maximum.
    delays.last().unwrap_or(max_delay).min(max_delay)
}

/// The delays between tries to settle, inside one attempt.
fn settlement_delays() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .with_max_times(6)
}

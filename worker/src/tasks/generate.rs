//! One job, from claim to settlement.
//!
//! Claim it; take over what earlier attempts bought; ask for what a provider still works on; buy what is missing,
//! one journaled call per output; bring every picture to exactly the size asked for; settle. Each step may be
//! repeated by anyone at any time: the fence decides who may still write. The model is called in `providers/`; the
//! end is [`common::settlement`], which is where to read next.

mod lane_limiter;
mod output;
mod picture;
mod prior_calls;

use std::sync::atomic::AtomicI32;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use common::artifact::Artifact;
use common::failpoint::reach;
use common::generation::Generation;
use common::id::JobId;
use common::job::{self, Claimed, DELIVERY_MARGIN};
use common::outcome::{Class, Failure};
use common::settlement::{self, Lease, Settled, SettlementError};
use common::telemetry::{self, process, traces};
use common::{call, database};
use futures::future::join_all;
use tracing::Instrument;

use crate::app::App;
use crate::leases::HeldLease;
use output::{Attempt, OutputResult};

/// Works on a job if it is to be had. Whatever happens is settled or left to the next attempt; a ring never fails.
/// `reserved`: in the worker's reserve.
pub(super) async fn run(app: &App, id: JobId, reserved: bool) {
    if !app.spool.accepts_results() {
        // It was popped before that was known, and is rung again.
        return;
    }
    let asked = Instant::now();
    let claiming = app.slots.claim_permit(reserved).await;
    let open = app.capacity().without(app.slots.exclusions(reserved));
    let claim = job::store::claim(&app.pool, id, &app.name, app.timing.lease, &open);
    let claimed = match database::with_timeout(claim).await {
        Ok(Some(claimed)) => claimed,
        // Another worker has it, it has ended, or its lanes are closed or its tenant has enough: then it is rung
        // again when that changes.
        Ok(None) => return,
        Err(error) => {
            return tracing::warn!(job.id = %id, %error, "Job {id} could not be claimed; it will be rung again");
        }
    };
    let _counted = app.slots.occupy(&claimed, reserved);
    drop(claiming);
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
    attempt(app, &claimed, asked)
        .instrument(span)
        .instrument(trace)
        .await;
}

async fn attempt(app: &App, claimed: &Claimed, asked: Instant) {
    let lease = Lease {
        tenant: claimed.tenant,
        job: claimed.id,
        fence: claimed.fence,
    };
    let held = app
        .leases
        .hold(claimed.id, claimed.fence, asked, app.timing.lease);
    tokio::select! {
        () = run_attempt(app, claimed, asked, lease, &held) => {}
        () = held.hangs() => {
            tracing::error!("The attempt hangs and is dropped; its lease will run out");
        }
    }
}

async fn run_attempt(app: &App, claimed: &Claimed, asked: Instant, lease: Lease, held: &HeldLease) {
    let Some(worked) = held
        .lost
        .run_until_cancelled(work(app, claimed, held))
        .await
    else {
        return tracing::info!("The job was taken away: it was canceled, or another has it");
    };
    let verdict = worked.unwrap_or_else(|error| {
        tracing::warn!(
            error = format!("{error:#}"),
            "The attempt failed on our side"
        );
        AttemptResult::our_fault(format!("{error:#}"))
    });
    let verdict = verdict.within(claimed, asked, app.timing.retry);
    let _timed = process::step("settle");
    let settled = (|| async {
        reach("generate:before_settle").await?;
        let settled = database::with_timeout(settle(app, lease, &verdict)).await?;
        reach("generate:after_settle").await?;
        Ok(settled)
    })
    .retry(settlement_delays())
    .when(|error| matches!(error, SettlementError::Database(_)))
    .await;
    match settled {
        Ok(settled) => tracing::info!(
            outcome = verdict.word(),
            ?settled,
            duration_ms = asked.elapsed().as_millis(),
            "The attempt ended"
        ),
        Err(error) => {
            tracing::error!(%error, "The attempt could not be settled; the lease will run out");
        }
    }
}

/// What the work came to.
enum AttemptResult {
    /// It is decided.
    Decided(Verdict),
    /// Another attempt may do it, or do the rest; what was made so far is delivered when there is no time for one.
    Again {
        failure: Failure,
        artifacts: Vec<Artifact>,
    },
    /// Nothing to do for so long: a provider still works, or no lane lets a call in.
    Pending {
        delay: Duration,
        artifacts: Vec<Artifact>,
    },
}

/// How the attempt is settled.
enum Verdict {
    /// Pictures to deliver, and why some are missing.
    Deliver {
        artifacts: Vec<Artifact>,
        shortfall: Option<Failure>,
    },
    /// Nothing to deliver, and no use in trying again.
    GiveUp(Failure),
    /// Another attempt, after this long.
    Retry(Duration, Failure),
    /// Another attempt, after this long; nothing failed.
    PutBack(Duration),
}

impl AttemptResult {
    fn give_up(class: Class, detail: impl AsRef<str>) -> Self {
        Self::Decided(Verdict::GiveUp(Failure::new(class, detail)))
    }

    /// Another attempt for something that went wrong on our side.
    fn our_fault(detail: impl AsRef<str>) -> Self {
        Self::Again {
            failure: Failure::new(Class::Internal, detail),
            artifacts: Vec::new(),
        }
    }

    /// Decides when to try again, or that there is no time for it: what cannot succeed any more is settled now.
    fn within(
        self,
        claimed: &Claimed,
        asked: Instant,
        (least, most): (Duration, Duration),
    ) -> Verdict {
        let left = Duration::try_from_secs_f64(claimed.seconds_left)
            .unwrap_or_default()
            .saturating_sub(asked.elapsed());
        match self {
            Self::Decided(verdict) => verdict,
            Self::Again { failure, artifacts } => {
                let delay = if failure.class.contract().retry_on_other_lane {
                    Duration::ZERO
                } else {
                    retry_delay(claimed.calls_made, least, most)
                        .max(failure.retry_after.unwrap_or_default().min(most))
                };
                if artifacts.is_empty() && delay < left {
                    Verdict::Retry(delay, failure)
                } else if artifacts.is_empty() {
                    Verdict::GiveUp(failure)
                } else if delay + DELIVERY_MARGIN < left {
                    Verdict::Retry(delay, failure)
                } else {
                    Verdict::Deliver {
                        artifacts,
                        shortfall: Some(failure),
                    }
                }
            }
            // Without pictures the deadline ends the job; with some, they are worth more than the wait.
            Self::Pending { delay, artifacts } if artifacts.is_empty() => Verdict::PutBack(delay),
            Self::Pending { delay, .. } if DELIVERY_MARGIN < left => {
                Verdict::PutBack(delay.min(left.saturating_sub(DELIVERY_MARGIN)))
            }
            Self::Pending { artifacts, .. } => {
                let detail = "no time was left to wait for the rest";
                Verdict::Deliver {
                    artifacts,
                    shortfall: Some(Failure::new(Class::Expired, detail)),
                }
            }
        }
    }
}

impl Verdict {
    fn word(&self) -> &'static str {
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

async fn settle(app: &App, lease: Lease, verdict: &Verdict) -> Result<Settled, SettlementError> {
    match verdict {
        Verdict::Deliver {
            artifacts,
            shortfall,
        } => settlement::deliver(&app.pool, lease, artifacts, shortfall.as_ref()).await,
        Verdict::GiveUp(failure) => settlement::give_up(&app.pool, lease, failure).await,
        Verdict::Retry(delay, failure) => {
            settlement::retry(&app.pool, lease, *delay, failure).await
        }
        Verdict::PutBack(delay) => settlement::put_back(&app.pool, lease, *delay).await,
    }
}

/// Everything between claim and settlement. An error is our own trouble, and worth another attempt.
async fn work(app: &App, claimed: &Claimed, lease: &HeldLease) -> anyhow::Result<AttemptResult> {
    let deadline =
        Instant::now() + Duration::try_from_secs_f64(claimed.seconds_left).unwrap_or_default();
    let asked_for = async {
        reach("generate:after_claim").await?;
        let mut transaction = database::begin_for(&app.pool, claimed.tenant).await?;
        let generation = job::store::request(&mut transaction, claimed.id).await?;
        let journal = call::store::of_job(&mut transaction, claimed.id).await?;
        transaction.commit().await?;
        Ok::<_, sqlx::Error>((generation, journal))
    };
    let (generation, journal) = database::with_timeout(asked_for).await?;

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
    let made = join_all(outputs.map(|output_idx| attempt.output(output_idx))).await;
    // One output's trouble on our side must not cost the others their pictures.
    let made = made.into_iter().map(|made| {
        made.unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "An output failed on our side");
            OutputResult::our_fault(&error)
        })
    });
    Ok(judge(made.collect()))
}

/// What the outputs, taken together, come to. An output that may yet succeed keeps the job open; nothing that
/// was made is lost by that, for the next attempt takes it over.
fn judge(made: Vec<OutputResult>) -> AttemptResult {
    let mut artifacts = Vec::new();
    let mut shortfall: Option<Failure> = None;
    let mut retry: Option<Failure> = None;
    let mut pending: Option<Duration> = None;
    for output in made {
        match output {
            OutputResult::Picture(pair) => artifacts.extend(*pair),
            OutputResult::Missing {
                failure,
                again: false,
            } => {
                shortfall.get_or_insert(failure);
            }
            OutputResult::Missing {
                failure,
                again: true,
            } => {
                retry.get_or_insert(failure);
            }
            OutputResult::Pending(delay) => {
                pending = Some(pending.map_or(delay, |other| other.min(delay)))
            }
        }
    }
    match (retry, pending, shortfall) {
        (Some(failure), ..) => AttemptResult::Again { failure, artifacts },
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

/// Full-jitter growth by calls made. One that was throttled does not count: its lane holds it back.
fn retry_delay(calls: i32, least: Duration, most: Duration) -> Duration {
    let attempts = usize::try_from(calls.saturating_add(1)).unwrap_or(1);
    let delays = ExponentialBuilder::default()
        .with_min_delay(least)
        .with_max_delay(most)
        .with_jitter()
        .with_max_times(attempts)
        .build();
    delays.last().unwrap_or(most).min(most)
}

/// In-process retries, towards our own database only.
fn settlement_delays() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .with_max_times(6)
}

//! Buy: one paid call. Acquire a lane, journal the call, submit it, and end it.
//!
//! The order protects money. The lane is acquired before the call is journaled, and the call is
//! journaled before it is made, so that a worker's death leaves a row and never an unknown payment.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context;
use common::failpoint::reach;
use common::memory::MemoryPermit;
use domain::catalog::{Lane, Model, Tokens};
use domain::id::CallId;
use domain::lanes::PauseReason;
use domain::outcome::{Class, Failure};
use rand::RngExt;
use storage::calls::NewCall;
use storage::database;
use telemetry::traces;
use tokio::time::timeout;
use tracing::{Instrument, Span};

use super::attempt::{Attempt, BUCKET_RETRY_DELAY, OutputResult, ProviderCall};
use super::finish::StoreFailure;
use super::image::Inputs;
use super::lane_limiter::ACQUIRE_TIMEOUT;
use super::prior_calls::PriorCalls;
use crate::memory;
use crate::providers::{Answer, CallRequest, InputImage, Reply};

/// Whether a call may be made.
enum JournalResult {
    /// It is journaled; make it.
    Journaled,
    /// The job's limit of calls is reached; do not make it.
    NoCallLeft,
}

impl Attempt<'_> {
    /// Makes one call for an output, if another call is worth it and allowed.
    ///
    /// # Errors
    ///
    /// Fails when something fails on our side: the lease, the bucket or the database.
    pub(super) async fn buy(
        &self,
        output_idx: i32,
        mut prior_calls: PriorCalls,
    ) -> anyhow::Result<OutputResult> {
        let lanes = self.model.lanes(self.claimed.fallback);
        if let Some(failure) = prior_calls.last()
            && !prior_calls.allow_another(lanes)
        {
            return Ok(OutputResult::given_up(failure.clone()));
        }
        if self.app.stopping.is_cancelled() {
            return Ok(OutputResult::HANDED_BACK);
        }
        if !self.app.spool.accepts_results() {
            return Ok(OutputResult::Pending(BUCKET_RETRY_DELAY));
        }
        let (images, permit) = match self.inputs().await? {
            Inputs::Loaded { images, permit } => (images, permit),
            Inputs::Missing(failure) => return Ok(OutputResult::given_up(failure)),
        };
        // Checked before the lane is acquired: the lane would count a call that may not be made, or
        // use it as its probe.
        if self.calls_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Ok(OutputResult::no_call_left(prior_calls.last()));
        }
        let id = CallId::new();
        let prior_classes = prior_calls.classes();
        let usable_lanes = prior_calls.usable_lanes(lanes);
        let lane = match self.acquire_lane(&usable_lanes, id, &prior_classes).await {
            Ok(lane) => lane,
            Err(without_call) => {
                self.calls_left.fetch_add(1, Ordering::Relaxed);
                return Ok(without_call);
            }
        };
        let mut lane_permit = self.limiter().permit(lane, id);
        let call = self
            .call(lane, id, output_idx)
            .context("a lane of the catalogue is not in the catalogue")?;
        reach("generate:before_begin_call").await?;
        match self.journal_call(call).await? {
            JournalResult::Journaled => {}
            JournalResult::NoCallLeft => {
                return Ok(OutputResult::no_call_left(prior_calls.last()));
            }
        }
        reach("generate:after_begin_call").await?;
        let reply = self.submit(call, &prior_classes, images, permit).await;
        reach("generate:after_call").await?;
        let mut result = match reply {
            Reply::Answered(answer) => {
                let ended = self.end(call, answer, StoreFailure::LoseCall).await;
                // `end` has told the lane the result, so the permit must not release it again.
                lane_permit.released = true;
                ended?
            }
            Reply::Operation(operation) => {
                reach("generate:before_operate").await?;
                self.record_operation(call, &operation).await?;
                reach("generate:after_operate").await?;
                // The call stays in flight on its lane until the operation ends. Whoever polls that
                // end, this attempt or a later one, releases it.
                lane_permit.released = true;
                let (first_delay, _) = self.app.timing.poll;
                self.poll_operation(call, &operation, call.model.timeout, first_delay)
                    .await?
            }
        };
        if let OutputResult::Missing { failure, retry } = &mut result {
            prior_calls.add(lane, failure);
            *retry = *retry && prior_calls.allow_another(lanes);
        }
        Ok(result)
    }

    /// Acquires a lane for the call `id`.
    ///
    /// # Errors
    ///
    /// When no lane allows a call, returns how the output ends without one.
    async fn acquire_lane<'b>(
        &self,
        usable_lanes: &[&'b Lane],
        id: CallId,
        prior_classes: &[Class],
    ) -> Result<&'b Lane, OutputResult> {
        // A call that follows a fault of the provider counts against the lane's budget of retries.
        let is_retry = prior_classes
            .last()
            .is_some_and(|class| class.contract().strikes > 0);
        let acquired = self.limiter().acquire(usable_lanes, id, is_retry).await;
        acquired.map_err(|pause| {
            if pause.reason != PauseReason::Answers(Class::ModelRetired) {
                // A short wait costs nothing: the dispatcher queues the job only when one of its
                // lanes is available again.
                return OutputResult::Pending(pause.wait.min(ACQUIRE_TIMEOUT));
            }
            let detail = "the provider has no such model, as other jobs have learned";
            let failure = Failure::new(Class::ModelRetired, detail);
            OutputResult::given_up(self.name_successor(failure))
        })
    }

    /// Journals the call and counts it on the job: the last check before money is spent.
    ///
    /// # Errors
    ///
    /// Fails when the lease or the deadline has passed, and when the database fails.
    async fn journal_call(&self, call: ProviderCall<'_>) -> anyhow::Result<JournalResult> {
        anyhow::ensure!(self.lease.is_valid(), "the lease may have run out");
        let new = NewCall {
            id: call.id,
            tenant: self.claimed.tenant,
            job: self.claimed.id,
            fence: self.claimed.fence,
            output_idx: call.output_idx,
            lane: call.lane,
            cost_micros: call
                .model
                .cost_micros(Some(self.request.size), Tokens::default())
                .context("the catalogue's costs cannot be counted")?,
        };
        let begin = async {
            let mut transaction = database::begin_for(&self.app.pool, self.claimed.tenant).await?;
            let begun = storage::calls::begin(&mut transaction, &new).await?;
            let calls_left = storage::calls::calls_left(&mut transaction, self.claimed.id).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>((begun, calls_left))
        };
        let (begun, calls_left) = database::with_timeout(begin).await?;
        if begun {
            return Ok(JournalResult::Journaled);
        }
        anyhow::ensure!(
            !calls_left,
            "no call may begin: the lease or the deadline has passed"
        );
        Ok(JournalResult::NoCallLeft)
    }

    /// Sends the call and waits for the reply within the model's timeout. `prior_classes` are the
    /// outcomes of earlier calls for this output; they change the seed and the thinking level.
    async fn submit(
        &self,
        call: ProviderCall<'_>,
        prior_classes: &[Class],
        inputs: Vec<InputImage>,
        permit: Option<MemoryPermit>,
    ) -> Reply {
        let request = CallRequest {
            model: call.model,
            lane: call.lane,
            prompt: &self.request.prompt,
            art_direction: self.request.art_direction.as_deref(),
            inputs,
            aspect_ratio: self.request.aspect_ratio,
            size: self.request.size,
            seed: self.seed(call.model, prior_classes),
            thinking: least_thinking(call.model, prior_classes),
            job: self.claimed.id,
            call: call.id,
            timeout: call.model.timeout,
            permit,
        };
        // The provider's clock stops while an answer waits for memory.
        let time = call.model.timeout + memory::MAX_WAIT;
        let _step = self.lease.begin_step(time);
        let started = Instant::now();
        let _in_flight = InFlight::new(&call.lane.model);
        let span = self
            .app
            .catalog
            .dialect(call.lane)
            .map_or_else(Span::none, |dialect| {
                traces::call(dialect, call.lane, call.id)
            });
        let reply = timeout(time, call.provider.submit(request))
            .instrument(span.clone())
            .await
            .unwrap_or_else(|_| {
                let detail = format!("no answer within {} s", time.as_secs());
                Reply::Answered(Answer::failed(Failure::new(Class::Unknown, detail)))
            });
        let outcome = match &reply {
            Reply::Answered(answer) => {
                let request_id = answer.provider_request_id.as_deref();
                let tokens = answer.usage.as_ref().map(|_| answer.tokens);
                traces::record_call(&span, answer.class(), request_id, tokens);
                answer.class().as_str()
            }
            Reply::Operation(operation) => {
                traces::record_call(&span, Class::Ok, Some(operation), None);
                "working"
            }
        };
        telemetry::CALL_SECONDS
            .with_label_values(&[&call.lane.model, outcome])
            .observe(started.elapsed().as_secs_f64());
        reply
    }

    /// The seed for the next call. An image that came out too close to a known work gets a random
    /// one: the tenant's own would give the same image again.
    fn seed(&self, model: &Model, prior_classes: &[Class]) -> Option<i32> {
        if !model.takes_seed {
            None
        } else if prior_classes.contains(&Class::RefusedCopyright) {
            Some(rand::rng().random_range(0..i32::MAX))
        } else {
            self.request.seed
        }
    }
}

/// The lowest thinking level of the model, after an answer that was truncated: thinking uses up the
/// same token limit as the image.
fn least_thinking<'a>(model: &'a Model, prior_classes: &[Class]) -> Option<&'a str> {
    let least = model.thinking.first()?;
    prior_classes.contains(&Class::Truncated).then_some(least)
}

/// Counts a call as in flight until it is dropped, also when the attempt is dropped because its
/// lease was lost.
struct InFlight(prometheus::IntGauge);

impl InFlight {
    fn new(model: &str) -> Self {
        let gauge = telemetry::CALLS_IN_FLIGHT.with_label_values(&[model]);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

//! Buys one image with one paid call: acquires a lane, journals the call, submits it, and ends it.
//!
//! The order protects money. The lane is acquired before the call is journaled, and the call is
//! journaled before it is sent. So if the worker dies, a row in the journal tells of the payment.

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
    /// The call is journaled and may be made.
    Journaled,
    /// The job's limit of calls is reached, so the call may not be made.
    NoCallLeft,
}

impl Attempt<'_> {
    /// Makes one call for an output, if another call is worth it and allowed.
    ///
    /// # Errors
    ///
    /// Returns an error if something fails on our side: the lease, the bucket or the database.
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
        if self.app.stop_signal.is_cancelled() {
            return Ok(OutputResult::HANDED_OVER);
        }
        if !self.app.spool.accepts_results() {
            return Ok(OutputResult::Pending(BUCKET_RETRY_DELAY));
        }
        let (images, permit) = match self.inputs().await? {
            Inputs::Loaded { images, permit } => (images, permit),
            Inputs::Missing(failure) => return Ok(OutputResult::given_up(failure)),
        };
        // This is checked before the lane is acquired. Otherwise the lane would count a call that
        // may not be made, or use it as its probe.
        if self.calls_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Ok(OutputResult::no_call_left(prior_calls.last()));
        }
        let id = CallId::new();
        let earlier_failures = prior_calls.classes();
        let usable_lanes = prior_calls.usable_lanes(lanes);
        let lane = match self
            .acquire_lane(&usable_lanes, id, &earlier_failures)
            .await
        {
            Ok(lane) => lane,
            Err(result_without_call) => {
                self.calls_left.fetch_add(1, Ordering::Relaxed);
                return Ok(result_without_call);
            }
        };
        let mut lane_permit = self.limiter().permit(lane, id);
        // This never fails, because the lane's model and provider are in the same catalogue.
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
        let reply = self.submit(call, &earlier_failures, images, permit).await;
        reach("generate:after_call").await?;
        let mut result = match reply {
            Reply::Answered(answer) => {
                let ended = self.end(call, answer, StoreFailure::LoseCall).await;
                // `end` has released the lane with the result, so the permit must not release it
                // again.
                lane_permit.is_handed_over = true;
                ended?
            }
            Reply::Operation(operation) => {
                reach("generate:before_operate").await?;
                self.record_operation(call, &operation).await?;
                reach("generate:after_operate").await?;
                // The call stays in flight on its lane until the operation ends. The attempt that
                // learns of the end, this one or a later one, releases the lane.
                lane_permit.is_handed_over = true;
                let (first_delay, _) = self.app.timing.poll;
                self.poll_operation(call, &operation, call.model.timeout, first_delay)
                    .await?
            }
        };
        if let OutputResult::Missing { failure, may_retry } = &mut result {
            prior_calls.add(lane, failure);
            *may_retry = *may_retry && prior_calls.allow_another(lanes);
        }
        Ok(result)
    }

    /// Acquires one of `usable_lanes` for the call `id`.
    ///
    /// # Errors
    ///
    /// If no lane allows a call, returns the result of the output without a call.
    async fn acquire_lane<'b>(
        &self,
        usable_lanes: &[&'b Lane],
        id: CallId,
        earlier_failures: &[Class],
    ) -> Result<&'b Lane, OutputResult> {
        // A call that follows a fault of the provider counts against the lane's budget of retries.
        let is_retry = earlier_failures
            .last()
            .is_some_and(|class| class.contract().strikes > 0);
        let acquired = self.limiter().acquire(usable_lanes, id, is_retry).await;
        acquired.map_err(|pause| {
            if pause.reason != PauseReason::Answers(Class::ModelRetired) {
                // A short wait costs nothing, because the dispatcher queues the job only when one
                // of its lanes is available again.
                return OutputResult::Pending(pause.wait.min(ACQUIRE_TIMEOUT));
            }
            let detail = "the provider has no such model, as calls of other jobs have shown";
            let failure = Failure::new(Class::ModelRetired, detail);
            OutputResult::given_up(self.name_successor(failure))
        })
    }

    /// Journals the call and counts it on the job. This is the last check before money is spent.
    ///
    /// # Errors
    ///
    /// Returns an error if the lease or the deadline has passed, or if the database fails.
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
        let pool = &self.app.pool;
        if database::with_timeout(storage::calls::begin(pool, &new)).await? {
            return Ok(JournalResult::Journaled);
        }
        let calls_left = storage::calls::has_calls_left(pool, self.claimed.id);
        anyhow::ensure!(
            !database::with_timeout(calls_left).await?,
            "no call may begin: the lease or the deadline has passed"
        );
        Ok(JournalResult::NoCallLeft)
    }

    /// Sends the call and waits for the reply within the model's timeout. `earlier_failures` are
    /// the classes of the earlier calls for this output. They change the seed and the thinking
    /// level.
    async fn submit(
        &self,
        call: ProviderCall<'_>,
        earlier_failures: &[Class],
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
            seed: self.seed(call.model, earlier_failures),
            thinking: thinking_level(call.model, earlier_failures),
            job: self.claimed.id,
            call: call.id,
            timeout: call.model.timeout,
            permit,
        };
        // The wait of an answer for memory does not count against the provider's timeout.
        let max_duration = call.model.timeout + memory::MAX_WAIT;
        let _step = self.lease.begin_step(max_duration);
        let started = Instant::now();
        let _in_flight = InFlightGauge::new(&call.lane.model);
        let span = self
            .app
            .catalog
            .dialect(call.lane)
            .map_or_else(Span::none, |dialect| {
                traces::call(dialect, call.lane, call.id)
            });
        let reply = timeout(max_duration, call.provider.submit(request))
            .instrument(span.clone())
            .await
            .unwrap_or_else(|_| {
                let detail = format!("no answer within {} s", max_duration.as_secs());
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

    /// The seed for the next call. If the provider refused an image as too similar to a known work,
    /// the next call gets a random seed, because the tenant's seed would give the same image again.
    fn seed(&self, model: &Model, earlier_failures: &[Class]) -> Option<i32> {
        if !model.takes_seed {
            None
        } else if earlier_failures.contains(&Class::RefusedCopyright) {
            Some(rand::rng().random_range(0..i32::MAX))
        } else {
            self.request.seed
        }
    }
}

/// The thinking level for the next call. After an answer that was truncated, it is the model's
/// lowest level, because thinking uses up the same token limit as the image. Otherwise `None` lets
/// the model choose.
fn thinking_level<'a>(model: &'a Model, earlier_failures: &[Class]) -> Option<&'a str> {
    let lowest = model.thinking.first()?;
    earlier_failures
        .contains(&Class::Truncated)
        .then_some(lowest)
}

/// Counts a call as in flight in the metric until this value is dropped, also when the attempt is
/// dropped because its lease was lost.
struct InFlightGauge(prometheus::IntGauge);

impl InFlightGauge {
    fn new(model: &str) -> Self {
        let gauge = telemetry::CALLS_IN_FLIGHT.with_label_values(&[model]);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlightGauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

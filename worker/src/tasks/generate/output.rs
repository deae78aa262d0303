//! One output of a job: taken over from an earlier attempt, heard of at last, or bought by one journaled call.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use backon::{ExponentialBuilder, Retryable};
use common::artifact::Artifact;
use common::call::store::NewCall;
use common::call::{self, Ending, Journaled, original_key};
use common::catalog::{Lane, Model, Tokens};
use common::database;
use common::failpoint::reach;
use common::generation::image::ImageRequest;
use common::id::CallId;
use common::job::Claimed;
use common::memory::MemoryPermit;
use common::outcome::{Class, Failure};
use common::queue::lanes::{CallResult, PauseReason};
use common::telemetry::{self, traces};
use rand::RngExt;
use tokio::time::timeout;
use tracing::{Instrument, Span};

use super::lane_limiter::{ACQUIRE_TIMEOUT, LaneLimiter};
use super::prior_calls::PriorCalls;
use crate::app::App;
use crate::leases::HeldLease;
use crate::memory;
use crate::providers::{Answer, InputPicture, PictureRequest, Provider, Reply};

/// Answers about work in the background that cannot be read, in a row, until it counts as lost.
const MAX_UNREADABLE: u32 = 3;

/// How long a job is left alone that found the bucket away.
const BUCKET_RETRY_DELAY: Duration = Duration::from_secs(1);

/// What all outputs of one attempt share.
pub(super) struct Attempt<'a> {
    pub app: &'a App,
    pub claimed: &'a Claimed,
    pub lease: &'a HeldLease,
    /// When the job ends by itself.
    pub deadline: Instant,
    pub request: &'a ImageRequest,
    pub model: &'a Model,
    /// Every call earlier attempts made, oldest first.
    pub journal: &'a [Journaled],
    /// Paid calls the job may still make, all outputs together; the database has the last word.
    pub calls_left: AtomicI32,
}

/// What became of an output.
pub(super) enum OutputResult {
    /// Rendition, thumbnail and original, stored.
    Picture(Box<[Artifact; 3]>),
    /// A provider still works on it, or no lane lets the call in: look again after this long.
    Pending(Duration),
    Missing {
        failure: Failure,
        again: bool,
    },
}

impl OutputResult {
    /// This worker stops, and no call of its own is under way: another one goes on at once.
    const HANDED_BACK: Self = Self::Pending(Duration::ZERO);

    /// Another attempt for something that went wrong on our side.
    pub(super) fn our_fault(error: &anyhow::Error) -> Self {
        Self::Missing {
            failure: Failure::new(Class::Internal, format!("{error:#}")),
            again: true,
        }
    }

    /// The job's bound is reached: what happened last is the end of it.
    fn no_call_left(last: Option<&Failure>) -> Self {
        let none_left = || Failure::new(Class::Unknown, "no further call is allowed");
        Self::given_up(last.cloned().unwrap_or_else(none_left))
    }

    fn given_up(failure: Failure) -> Self {
        Self::Missing {
            failure,
            again: false,
        }
    }
}

/// What a picture is that could not be stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StoreFailure {
    /// Lost, with what was paid for it: the call has ended.
    Lost,
    /// Left where it is: with a provider that can be asked again, or in the bucket. The call stays open.
    Left,
}

/// A call in the making: which output, and where.
#[derive(Clone, Copy)]
struct Call<'a> {
    id: CallId,
    output_idx: i32,
    lane: &'a Lane,
    model: &'a Model,
    provider: &'a dyn Provider,
}

impl Attempt<'_> {
    /// Makes one output. An error is our own trouble.
    pub(super) async fn output(&self, output_idx: i32) -> anyhow::Result<OutputResult> {
        let earlier = || {
            self.journal
                .iter()
                .filter(|call| call.output_idx == output_idx)
        };
        let named = earlier().find_map(|call| Some((call, call.original.as_ref()?)));
        if let Some((call, original)) = named {
            let (key, model) = (&original.object_key, &call.lane.model);
            let rendered = self.render_stored(key, original.pixels, output_idx, model);
            let rendered = rendered.await?.map_err(|failure| {
                anyhow::anyhow!(
                    "an original that was rendered before is no picture: {}",
                    failure.detail
                )
            })?;
            return self.store(output_idx, original.clone(), rendered).await;
        }
        let mut history = PriorCalls::default();
        for journaled in earlier() {
            let failure = match journaled.failure() {
                Some(failure) if !journaled.is_lost() => failure,
                // Given up for lost: its picture may have come after that, or been stored though we did not hear so.
                Some(lost) => match self.adopt(journaled).await? {
                    Some(made) => return Ok(made),
                    None => lost,
                },
                None => match self.reconcile(journaled).await? {
                    OutputResult::Missing { failure, .. } => failure,
                    found => return Ok(found),
                },
            };
            history.add(&journaled.lane, &failure);
        }
        self.buy(output_idx, history).await
    }

    /// The original that a call left in the bucket without naming it: it is ours, whoever bought it.
    async fn adopt(&self, journaled: &Journaled) -> anyhow::Result<Option<OutputResult>> {
        let (id, output_idx) = (journaled.id, journaled.output_idx);
        let key = original_key(self.claimed.tenant, id);
        let Some(mut bytes) = self.fetch_original(&key).await? else {
            return Ok(None);
        };
        // Of one that was given up nothing but its picture may change any more.
        if journaled.outcome.is_some() {
            let Ok((_, pixels)) = imaging::inspect(&bytes) else {
                return Ok(None);
            };
            drop(bytes);
            let rendered = self.render_stored(&key, pixels, output_idx, &journaled.lane.model);
            if rendered.await?.is_err() {
                return Ok(None);
            }
            bytes = match self.fetch_original(&key).await? {
                Some(bytes) => bytes,
                None => return Ok(None),
            };
        }
        tracing::info!(call.id = %id, "Taking over a stored original");
        self.limiter().release(&journaled.lane, id, None).await;
        let call = self.call(&journaled.lane, id, output_idx);
        let model = call.map_or(self.model, |call| call.model);
        let made = self.finish(
            id,
            output_idx,
            model,
            Answer::bare(Ok(bytes)),
            StoreFailure::Left,
        );
        made.await.map(Some)
    }

    /// A call nobody has heard the end of. What is stored of it is taken over. Its provider may still work on it: then
    /// it is asked. Else it is lost, and possibly billed.
    async fn reconcile(&self, journaled: &Journaled) -> anyhow::Result<OutputResult> {
        if let Some(made) = self.adopt(journaled).await? {
            return Ok(made);
        }
        let id = journaled.id;
        let call = self.call(&journaled.lane, id, journaled.output_idx);
        if let (Some(call), Some(operation)) = (call, &journaled.operation) {
            let left = call.model.timeout.saturating_sub(journaled.age);
            return self
                .poll_operation(call, operation, left, Duration::ZERO)
                .await;
        }
        // Our own worker's death says nothing against the lane.
        self.limiter().release(&journaled.lane, id, None).await;
        let lost = Failure::new(Class::Unknown, "its worker died before the answer was kept");
        let Claimed { id: job, fence, .. } = *self.claimed;
        let lose = async {
            let mut transaction = database::begin_for(&self.app.pool, self.claimed.tenant).await?;
            let given_up =
                call::store::record_lost(&mut transaction, job, fence, journaled, &lost).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(given_up)
        };
        Ok(match database::with_timeout(lose).await? {
            Ok(()) => OutputResult::Missing {
                failure: lost,
                again: true,
            },
            // It has moved on meanwhile: the next attempt reads the journal anew.
            Err(_) => OutputResult::Pending(Duration::ZERO),
        })
    }

    /// One paid call: let in, journaled, made, ended.
    async fn buy(&self, output_idx: i32, mut history: PriorCalls) -> anyhow::Result<OutputResult> {
        let lanes = self.model.lanes(self.claimed.fallback);
        if let Some(failure) = history.last()
            && !history.allow_another(lanes)
        {
            return Ok(OutputResult::given_up(failure.clone()));
        }
        let ended = history.classes();
        let retry = ended
            .last()
            .is_some_and(|class| class.contract().strikes > 0);
        if self.app.stopping.is_cancelled() {
            return Ok(OutputResult::HANDED_BACK);
        }
        if !self.app.spool.accepts_results() {
            return Ok(OutputResult::Pending(BUCKET_RETRY_DELAY));
        }
        let (inputs, room) = match self.inputs().await? {
            Ok(inputs) => inputs,
            Err(gone) => return Ok(OutputResult::given_up(gone)),
        };
        // Before the lane is asked: it would count, or be probed by, a call that may not be made.
        if self.calls_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Ok(OutputResult::no_call_left(history.last()));
        }
        let id = CallId::new();
        let lane = match self
            .limiter()
            .acquire(&history.usable_lanes(lanes), id, retry)
            .await
        {
            Ok(lane) => lane,
            Err(pause) => {
                self.calls_left.fetch_add(1, Ordering::Relaxed);
                if pause.reason != PauseReason::Answers(Class::ModelRetired) {
                    // The dispatcher knows when a lane opens: nothing is gained by staying away for longer.
                    return Ok(OutputResult::Pending(pause.wait.min(ACQUIRE_TIMEOUT)));
                }
                let detail = "the provider has no such model, as other jobs have learned";
                let failure = Failure::new(Class::ModelRetired, detail);
                return Ok(OutputResult::given_up(self.name_successor(failure)));
            }
        };
        let mut entered = self.limiter().permit(lane, id);
        let call = self
            .call(lane, id, output_idx)
            .context("a lane of the catalogue is not in the catalogue")?;
        reach("generate:before_begin_call").await?;
        if let Some(made) = self.begin(call, history.last()).await? {
            return Ok(made);
        }
        reach("generate:after_begin_call").await?;
        let reply = self.submit(call, &ended, inputs, room).await;
        reach("generate:after_call").await?;
        let mut made = match reply {
            Reply::Answered(answer) => {
                let made = self.end(call, answer, StoreFailure::Lost).await;
                entered.released = true;
                made?
            }
            Reply::Working(operation) => {
                reach("generate:before_operate").await?;
                self.record_operation(call, &operation).await?;
                reach("generate:after_operate").await?;
                // It is in flight until the provider tells, whoever hears it.
                entered.released = true;
                let (soon, _) = self.app.timing.poll;
                self.poll_operation(call, &operation, call.model.timeout, soon)
                    .await?
            }
        };
        if let OutputResult::Missing { failure, again } = &mut made {
            history.add(lane, failure);
            *again = *again && history.allow_another(lanes);
        }
        Ok(made)
    }

    /// Journals the call: the last check before money is spent. `Some`: it must not be made.
    async fn begin(
        &self,
        call: Call<'_>,
        last: Option<&Failure>,
    ) -> anyhow::Result<Option<OutputResult>> {
        anyhow::ensure!(self.lease.stands(), "the lease may have run out");
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
            let begun = call::store::begin(&mut transaction, &new).await?;
            let calls_left = call::store::calls_left(&mut transaction, self.claimed.id).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>((begun, calls_left))
        };
        let (begun, calls_left) = database::with_timeout(begin).await?;
        if begun {
            return Ok(None);
        }
        anyhow::ensure!(
            !calls_left,
            "no call may begin: the lease or the deadline has passed"
        );
        Ok(Some(OutputResult::no_call_left(last)))
    }

    /// The provider's reply, within the model's time.
    async fn submit(
        &self,
        call: Call<'_>,
        ended: &[Class],
        inputs: Vec<InputPicture>,
        room: Option<MemoryPermit>,
    ) -> Reply {
        let request = PictureRequest {
            model: call.model,
            lane: call.lane,
            prompt: &self.request.prompt,
            art_direction: self.request.art_direction.as_deref(),
            inputs,
            aspect_ratio: self.request.aspect_ratio,
            size: self.request.size,
            seed: self.seed(call.model, ended),
            thinking: least_thinking(call.model, ended),
            job: self.claimed.id,
            call: call.id,
            time: call.model.timeout,
            room,
        };
        // An answer may wait until there is room for it.
        let time = call.model.timeout + memory::MAX_WAIT;
        let _step = self.lease.may_take(time);
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
                let said = answer.provider_request_id.as_deref();
                let tokens = answer.usage.as_ref().map(|_| answer.tokens);
                traces::record_call(&span, answer.class(), said, tokens);
                answer.class().as_str()
            }
            Reply::Working(operation) => {
                traces::record_call(&span, Class::Ok, Some(operation), None);
                "working"
            }
        };
        telemetry::CALL_SECONDS
            .with_label_values(&[&call.lane.model, outcome])
            .observe(started.elapsed().as_secs_f64());
        reply
    }

    /// A picture that came out too close to a known work is asked for with another seed.
    fn seed(&self, model: &Model, ended: &[Class]) -> Option<i32> {
        if !model.takes_seed {
            None
        } else if ended.contains(&Class::RefusedCopyright) {
            Some(rand::rng().random_range(0..i32::MAX))
        } else {
            self.request.seed
        }
    }

    /// Asks a provider that works in the background until it tells or `left` is over; at least once.
    async fn poll_operation(
        &self,
        call: Call<'_>,
        operation: &str,
        left: Duration,
        first: Duration,
    ) -> anyhow::Result<OutputResult> {
        let until = Instant::now() + left;
        let (least, most) = self.app.timing.poll;
        let mut delay = first;
        let mut unreadable = 0;
        loop {
            let slept = self
                .app
                .stopping
                .run_until_cancelled(tokio::time::sleep(delay));
            if slept.await.is_none() {
                return Ok(OutputResult::HANDED_BACK);
            }
            delay = (delay * 3 / 2).clamp(least, most);
            let time = call.model.timeout;
            let _step = self.lease.may_take(delay + time + memory::MAX_WAIT);
            match call.provider.poll(call.lane, operation, time).await {
                Ok(Reply::Answered(answer)) => {
                    return self.end(call, answer, StoreFailure::Left).await;
                }
                Ok(Reply::Working(_)) => unreadable = 0,
                Err(failure) if failure.class == Class::ProviderInvalid => {
                    unreadable += 1;
                    if unreadable == MAX_UNREADABLE {
                        return self
                            .end(call, Answer::failed(failure), StoreFailure::Left)
                            .await;
                    }
                    delay = least;
                    continue;
                }
                Err(failure) => {
                    tracing::debug!(call.id = %call.id, outcome = failure.class.as_str(), detail = failure.detail, "The provider did not say how its work stands");
                }
            }
            if Instant::now() + delay > until {
                return Ok(OutputResult::Pending(most));
            }
        }
    }

    /// Keeps the handle before it is asked about.
    async fn record_operation(&self, call: Call<'_>, operation: &str) -> anyhow::Result<()> {
        let keep = || async {
            let mut transaction = database::begin_for(&self.app.pool, self.claimed.tenant).await?;
            let kept = call::store::record_operation(&mut transaction, call.id, operation).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(kept)
        };
        (|| database::with_timeout(keep()))
            .retry(store_delays())
            .await?
            .context("the job ended before the provider's handle could be kept")
    }

    fn limiter(&self) -> LaneLimiter<'_> {
        LaneLimiter {
            app: self.app,
            tenant: self.claimed.tenant,
            model: self.model,
        }
    }

    fn call<'b>(&'b self, lane: &'b Lane, id: CallId, output_idx: i32) -> Option<Call<'b>> {
        Some(Call {
            id,
            output_idx,
            lane,
            model: self.app.catalog.get(&lane.model)?,
            provider: self.app.providers.get(&lane.provider)?,
        })
    }

    /// A retired model's successor is what the customer wants to hear of.
    fn name_successor(&self, failure: Failure) -> Failure {
        match &self.model.successor {
            Some(successor) if failure.class == Class::ModelRetired => {
                let retired = &self.model.id;
                failure.because(format!(
                    "The provider no longer offers {retired}. Use {successor} instead."
                ))
            }
            _ => failure,
        }
    }

    /// Keeps what came, and tells the lane what that was: that a file is no picture shows only when it is rendered.
    async fn end(
        &self,
        call: Call<'_>,
        answer: Answer,
        unkept: StoreFailure,
    ) -> anyhow::Result<OutputResult> {
        let failed = answer.picture.as_ref().err().map(CallResult::from);
        if failed.is_some() {
            self.limiter().release(call.lane, call.id, failed).await;
        }
        let made = self
            .finish(call.id, call.output_idx, call.model, answer, unkept)
            .await;
        if failed.is_none() {
            let ended = match &made {
                Ok(OutputResult::Missing { failure, .. }) => CallResult::from(failure),
                _ => CallResult::OK,
            };
            self.limiter()
                .release(call.lane, call.id, Some(ended))
                .await;
        }
        made
    }

    /// Stores the original under the call's own key, develops it, and ends the call. A file that is no picture
    /// ends it as a fault and is not named, so the next attempt buys another.
    async fn finish(
        &self,
        call: CallId,
        output_idx: i32,
        model: &Model,
        answer: Answer,
        unkept: StoreFailure,
    ) -> anyhow::Result<OutputResult> {
        let Answer {
            picture,
            provider_request_id,
            usage,
            tokens,
        } = answer;
        let rendered = match picture {
            Ok(bytes) => match self.store_original(call, output_idx, model, bytes).await {
                Ok(Ok((original, Some(rendered)))) => Ok((original, rendered)),
                // It is safe, and whoever waits for room holds none. An error leaves it to the next attempt.
                Ok(Ok((original, None))) => {
                    let (key, pixels) = (&original.object_key, original.pixels);
                    let rendered = self.render_stored(key, pixels, output_idx, &model.id);
                    rendered.await?.map(|rendered| (original, rendered))
                }
                Ok(Err(failure)) => Err(failure),
                Err(error) if unkept == StoreFailure::Left => {
                    tracing::warn!(%error, call.id = %call, "A picture could not be stored; it can be had again");
                    return Ok(OutputResult::Pending(BUCKET_RETRY_DELAY));
                }
                Err(error) => Err(Failure::new(
                    Class::Internal,
                    format!("the original could not be stored: {error}"),
                )),
            },
            Err(failure) => Err(self.name_successor(failure)),
        };
        let failure = rendered.as_ref().err();
        let usage = usage.filter(|usage| {
            let written = usage.to_string();
            written.len() < 16_384 && !written.contains("\\u0000")
        });
        let outcome = failure.map_or(Class::Ok, |failure| failure.class);
        let delivered = failure.is_none().then_some(self.request.size);
        let ending = Ending {
            outcome,
            detail: failure.map(|failure| failure.detail.as_str()),
            reason: failure.and_then(|failure| failure.reason.as_deref()),
            provider_request_id: provider_request_id.as_deref(),
            usage: usage.as_ref(),
            cost_micros: match outcome {
                // What may have been made may have been billed.
                Class::Unknown | Class::ProviderInvalid | Class::Internal => None,
                _ => model.cost_micros(delivered, tokens),
            },
            original: rendered.as_ref().ok().map(|(original, _)| original),
        };
        reach("generate:after_store").await?;
        let end = || async {
            let mut transaction = database::begin_for(&self.app.pool, self.claimed.tenant).await?;
            let ended = call::store::end(&mut transaction, call, self.claimed.id, &ending).await?;
            let calls_left = call::store::calls_left(&mut transaction, self.claimed.id).await?;
            reach("end_call:before_commit").await?;
            transaction.commit().await?;
            reach("end_call:after_commit").await?;
            Ok::<_, sqlx::Error>((ended, calls_left))
        };
        let (ended, calls_left) = (|| database::with_timeout(end()))
            .retry(store_delays())
            .await?;
        if ended.is_err() && rendered.is_err() {
            // Another attempt was first, and may have ended it with a picture: what it wrote stands.
            return Ok(OutputResult::Pending(Duration::ZERO));
        }
        match rendered {
            Ok((original, rendered)) => self.store(output_idx, original, rendered).await,
            Err(failure) => Ok(OutputResult::Missing {
                failure,
                again: calls_left,
            }),
        }
    }
}

/// What was cut short is asked for with less thinking.
fn least_thinking<'a>(model: &'a Model, ended: &[Class]) -> Option<&'a str> {
    let least = model.thinking.first()?;
    ended.contains(&Class::Truncated).then_some(least)
}

/// A call in flight. Falls by itself: the attempt is dropped when its lease is lost.
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

/// In-process retries, towards our own stores only.
fn store_delays() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .with_max_times(4)
}

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
use common::memory::Room;
use common::outcome::{Class, Failure};
use common::queue::lanes::{Ended, Why};
use common::telemetry::{self, traces};
use rand::RngExt;
use tokio::time::timeout;
use tracing::{Instrument, Span};

use super::door::{AT_THE_DOOR, Door};
use super::history::History;
use crate::app::App;
use crate::leases::HeldLease;
use crate::memory;
use crate::providers::{Answer, InputPicture, PictureRequest, Provider, Reply};

/// Answers about work in the background that cannot be read, in a row, until it counts as lost.
const UNREADABLE: u32 = 3;

/// How long a job is left alone that found the bucket away.
const NO_SHELF: Duration = Duration::from_secs(1);

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
pub(super) enum Made {
    /// Rendition, thumbnail and original, stored.
    Picture(Box<[Artifact; 3]>),
    /// A provider still works on it, or no lane lets the call in: look again after this long.
    Pending(Duration),
    Missing {
        failure: Failure,
        again: bool,
    },
}

impl Made {
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
enum Unkept {
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
    pub(super) async fn output(&self, output_idx: i32) -> anyhow::Result<Made> {
        let earlier = || {
            self.journal
                .iter()
                .filter(|call| call.output_idx == output_idx)
        };
        let named = earlier().find_map(|call| Some((call, call.original.as_ref()?)));
        if let Some((call, original)) = named {
            let (key, model) = (&original.object_key, &call.lane.model);
            let developed = self.develop_stored(key, original.pixels, output_idx, model);
            let developed = developed.await?.map_err(|failure| {
                anyhow::anyhow!(
                    "an original that was developed before is no picture: {}",
                    failure.detail
                )
            })?;
            return self.store(output_idx, original.clone(), developed).await;
        }
        let mut history = History::default();
        for journaled in earlier() {
            let failure = match journaled.failure() {
                Some(failure) if !journaled.is_lost() => failure,
                // Given up for lost: its picture may have come after that, or been stored though we did not hear so.
                Some(lost) => match self.take_over(journaled).await? {
                    Some(made) => return Ok(made),
                    None => lost,
                },
                None => match self.reconcile(journaled).await? {
                    Made::Missing { failure, .. } => failure,
                    found => return Ok(found),
                },
            };
            history.add(&journaled.lane, &failure);
        }
        self.buy(output_idx, history).await
    }

    /// The original that a call left in the bucket without naming it: it is ours, whoever bought it.
    async fn take_over(&self, journaled: &Journaled) -> anyhow::Result<Option<Made>> {
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
            let developed = self.develop_stored(&key, pixels, output_idx, &journaled.lane.model);
            if developed.await?.is_err() {
                return Ok(None);
            }
            bytes = match self.fetch_original(&key).await? {
                Some(bytes) => bytes,
                None => return Ok(None),
            };
        }
        tracing::info!(call.id = %id, "Taking over a stored original");
        self.door().tell(&journaled.lane, id, None).await;
        let call = self.call(&journaled.lane, id, output_idx);
        let model = call.map_or(self.model, |call| call.model);
        let made = self.finish(id, output_idx, model, Answer::bare(Ok(bytes)), Unkept::Left);
        made.await.map(Some)
    }

    /// A call nobody has heard the end of. What is stored of it is taken over. Its provider may still work on it: then
    /// it is asked. Else it is lost, and possibly billed.
    async fn reconcile(&self, journaled: &Journaled) -> anyhow::Result<Made> {
        if let Some(made) = self.take_over(journaled).await? {
            return Ok(made);
        }
        let id = journaled.id;
        let call = self.call(&journaled.lane, id, journaled.output_idx);
        if let (Some(call), Some(operation)) = (call, &journaled.operation) {
            let left = call.model.timeout.saturating_sub(journaled.age);
            return self.follow(call, operation, left, Duration::ZERO).await;
        }
        // Our own worker's death says nothing against the lane.
        self.door().tell(&journaled.lane, id, None).await;
        let lost = Failure::new(Class::Unknown, "its worker died before the answer was kept");
        let Claimed { id: job, fence, .. } = *self.claimed;
        let lose = async {
            let mut transaction = database::begin_for(&self.app.pool, self.claimed.tenant).await?;
            let given_up =
                call::store::lose(&mut transaction, job, fence, journaled, &lost).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(given_up)
        };
        Ok(match database::answered(lose).await? {
            Ok(()) => Made::Missing {
                failure: lost,
                again: true,
            },
            // It has moved on meanwhile: the next attempt reads the journal anew.
            Err(_) => Made::Pending(Duration::ZERO),
        })
    }

    /// One paid call: let in, journaled, made, ended.
    async fn buy(&self, output_idx: i32, mut history: History) -> anyhow::Result<Made> {
        let lanes = self.model.lanes(self.claimed.fallback);
        if let Some(failure) = history.last()
            && !history.goes_on(lanes)
        {
            return Ok(Made::given_up(failure.clone()));
        }
        let ended = history.classes();
        let retry = ended
            .last()
            .is_some_and(|class| class.contract().strikes > 0);
        if self.app.stopping.is_cancelled() {
            return Ok(Made::HANDED_BACK);
        }
        if !self.app.shelf.takes_more() {
            return Ok(Made::Pending(NO_SHELF));
        }
        let (inputs, room) = match self.inputs().await? {
            Ok(inputs) => inputs,
            Err(gone) => return Ok(Made::given_up(gone)),
        };
        // Before the lane is asked: it would count, or be probed by, a call that may not be made.
        if self.calls_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Ok(Made::no_call_left(history.last()));
        }
        let id = CallId::new();
        let lane = match self.door().let_in(&history.open(lanes), id, retry).await {
            Ok(lane) => lane,
            Err(pause) => {
                self.calls_left.fetch_add(1, Ordering::Relaxed);
                if pause.why != Why::Answers(Class::ModelRetired) {
                    // The dispatcher knows when a lane opens: nothing is gained by staying away for longer.
                    return Ok(Made::Pending(pause.wait.min(AT_THE_DOOR)));
                }
                let detail = "the provider has no such model, as other jobs have learned";
                let failure = Failure::new(Class::ModelRetired, detail);
                return Ok(Made::given_up(self.named_successor(failure)));
            }
        };
        let mut entered = self.door().entered(lane, id);
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
                let made = self.end(call, answer, Unkept::Lost).await;
                entered.told = true;
                made?
            }
            Reply::Working(operation) => {
                reach("generate:before_operate").await?;
                self.operate(call, &operation).await?;
                reach("generate:after_operate").await?;
                // It is in flight until the provider tells, whoever hears it.
                entered.told = true;
                let (soon, _) = self.app.timing.poll;
                self.follow(call, &operation, call.model.timeout, soon)
                    .await?
            }
        };
        if let Made::Missing { failure, again } = &mut made {
            history.add(lane, failure);
            *again = *again && history.goes_on(lanes);
        }
        Ok(made)
    }

    /// Journals the call: the last check before money is spent. `Some`: it must not be made.
    async fn begin(&self, call: Call<'_>, last: Option<&Failure>) -> anyhow::Result<Option<Made>> {
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
        let (begun, calls_left) = database::answered(begin).await?;
        if begun {
            return Ok(None);
        }
        anyhow::ensure!(
            !calls_left,
            "no call may begin: the lease or the deadline has passed"
        );
        Ok(Some(Made::no_call_left(last)))
    }

    /// The provider's reply, within the model's time.
    async fn submit(
        &self,
        call: Call<'_>,
        ended: &[Class],
        inputs: Vec<InputPicture>,
        room: Option<Room>,
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
        let time = call.model.timeout + memory::LONGEST;
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
                traces::called(&span, answer.class(), said, tokens);
                answer.class().as_str()
            }
            Reply::Working(operation) => {
                traces::called(&span, Class::Ok, Some(operation), None);
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
    async fn follow(
        &self,
        call: Call<'_>,
        operation: &str,
        left: Duration,
        first: Duration,
    ) -> anyhow::Result<Made> {
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
                return Ok(Made::HANDED_BACK);
            }
            delay = (delay * 3 / 2).clamp(least, most);
            let time = call.model.timeout;
            let _step = self.lease.may_take(delay + time + memory::LONGEST);
            match call.provider.poll(call.lane, operation, time).await {
                Ok(Reply::Answered(answer)) => {
                    return self.end(call, answer, Unkept::Left).await;
                }
                Ok(Reply::Working(_)) => unreadable = 0,
                Err(failure) if failure.class == Class::ProviderInvalid => {
                    unreadable += 1;
                    if unreadable == UNREADABLE {
                        return self.end(call, Answer::failed(failure), Unkept::Left).await;
                    }
                    delay = least;
                    continue;
                }
                Err(failure) => {
                    tracing::debug!(call.id = %call.id, outcome = failure.class.as_str(), detail = failure.detail, "The provider did not say how its work stands");
                }
            }
            if Instant::now() + delay > until {
                return Ok(Made::Pending(most));
            }
        }
    }

    /// Keeps the handle before it is asked about.
    async fn operate(&self, call: Call<'_>, operation: &str) -> anyhow::Result<()> {
        let keep = || async {
            let mut transaction = database::begin_for(&self.app.pool, self.claimed.tenant).await?;
            let kept = call::store::operate(&mut transaction, call.id, operation).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(kept)
        };
        (|| database::answered(keep()))
            .retry(store_delays())
            .await?
            .context("the job ended before the provider's handle could be kept")
    }

    fn door(&self) -> Door<'_> {
        Door {
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
    fn named_successor(&self, failure: Failure) -> Failure {
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

    /// Keeps what came, and tells the lane what that was: that a file is no picture shows only when it is developed.
    async fn end(&self, call: Call<'_>, answer: Answer, unkept: Unkept) -> anyhow::Result<Made> {
        let failed = answer.picture.as_ref().err().map(Ended::from);
        if failed.is_some() {
            self.door().tell(call.lane, call.id, failed).await;
        }
        let made = self
            .finish(call.id, call.output_idx, call.model, answer, unkept)
            .await;
        if failed.is_none() {
            let ended = match &made {
                Ok(Made::Missing { failure, .. }) => Ended::from(failure),
                _ => Ended::WELL,
            };
            self.door().tell(call.lane, call.id, Some(ended)).await;
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
        unkept: Unkept,
    ) -> anyhow::Result<Made> {
        let Answer {
            picture,
            provider_request_id,
            usage,
            tokens,
        } = answer;
        let developed = match picture {
            Ok(bytes) => match self.keep(call, output_idx, model, bytes).await {
                Ok(Ok((original, Some(developed)))) => Ok((original, developed)),
                // It is safe, and whoever waits for room holds none. An error leaves it to the next attempt.
                Ok(Ok((original, None))) => {
                    let (key, pixels) = (&original.object_key, original.pixels);
                    let developed = self.develop_stored(key, pixels, output_idx, &model.id);
                    developed.await?.map(|developed| (original, developed))
                }
                Ok(Err(failure)) => Err(failure),
                Err(error) if unkept == Unkept::Left => {
                    tracing::warn!(%error, call.id = %call, "A picture could not be stored; it can be had again");
                    return Ok(Made::Pending(NO_SHELF));
                }
                Err(error) => Err(Failure::new(
                    Class::Internal,
                    format!("the original could not be stored: {error}"),
                )),
            },
            Err(failure) => Err(self.named_successor(failure)),
        };
        let failure = developed.as_ref().err();
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
            original: developed.as_ref().ok().map(|(original, _)| original),
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
        let (ended, calls_left) = (|| database::answered(end())).retry(store_delays()).await?;
        if ended.is_err() && developed.is_err() {
            // Another attempt was first, and may have ended it with a picture: what it wrote stands.
            return Ok(Made::Pending(Duration::ZERO));
        }
        match developed {
            Ok((original, developed)) => self.store(output_idx, original, developed).await,
            Err(failure) => Ok(Made::Missing {
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

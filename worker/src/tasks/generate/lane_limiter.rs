//! Acquires a lane for a call before the call is journaled, and releases the lane however the call
//! ends.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::catalog::{Lane, Model};
use domain::id::{CallId, TenantId};
use domain::lanes::{CallResult, Pause, PauseReason};
use domain::outcome::Class;
use queue::lanes::Acquisition;
use queue::{Lanes, QueueError};
use rand::RngExt;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::lane_waiters::LaneWaiters;

/// How long an attempt waits for a full lane. After that its job is put back, and another job may
/// use the slot.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a job is put back for if its attempt never got to ask for a lane, because other
/// attempts of the tenant were first.
const WAIT_WITHOUT_TURN: Duration = Duration::from_millis(200);
/// How long a call still counts as in flight after the model's timeout, if no attempt reports its
/// end.
const LATE_END_GRACE: Duration = Duration::from_secs(30);

/// Acquires and releases lanes for the calls of one job.
pub(super) struct LaneLimiter<'a> {
    pub app: &'a App,
    pub tenant: TenantId,
    /// The job's model.
    pub model: &'a Model,
}

impl LaneLimiter<'_> {
    /// Acquires the first of `lanes` that allows the call. If they are full, waits up to
    /// [`ACQUIRE_TIMEOUT`], because that is cheaper than to put the job back into the queue.
    /// `lanes` must not be empty. Of the tenant's attempts that have the same first lane, one asks
    /// at a time ([`LaneWaiters`]).
    ///
    /// # Errors
    ///
    /// If no lane allows the call, returns the shortest pause.
    pub(super) async fn acquire<'a>(
        &self,
        lanes: &[&'a Lane],
        call: CallId,
        is_retry: bool,
    ) -> Result<&'a Lane, Pause> {
        let deadline = Instant::now() + ACQUIRE_TIMEOUT;
        let waiters = &self.app.lane_waiters;
        let first = lanes[0];
        let turn = waiters.turn(first, self.tenant);
        let Some(_turn) = self.unless_over(deadline, turn).await else {
            let (wait, reason) = (WAIT_WITHOUT_TURN, PauseReason::Full);
            return Err(Pause { wait, reason });
        };
        let ends = waiters.ends(first);
        loop {
            // Listens before it asks, so that no end of a call is missed in between.
            let mut call_ended = pin!(ends.notified());
            call_ended.as_mut().enable();
            let pause = match self.try_all(lanes, call, is_retry).await {
                Err(pause) if pause.reason == PauseReason::Full => pause,
                decided => return decided,
            };
            // Without jitter all workers would try again at the same moment.
            let delay = pause.wait.mul_f64(rand::rng().random_range(1.0..1.3));
            let wait = tokio::time::timeout(delay, call_ended);
            if self.unless_over(deadline, wait).await.is_none() {
                return Err(pause);
            }
        }
    }

    /// Awaits `wait`. Returns `None` if the deadline passes first, or if this worker stops. This is
    /// only for waiting, never for a request to Redis: if such a request were dropped, its answer
    /// might grant a place that nobody gives back.
    async fn unless_over<T>(&self, deadline: Instant, wait: impl Future<Output = T>) -> Option<T> {
        let in_time = tokio::time::timeout_at(deadline.into(), wait);
        let unless_stopped = self.app.stop_signal.run_until_cancelled(in_time);
        unless_stopped.await?.ok()
    }

    /// Asks for each lane once, in order, until one allows the call.
    ///
    /// # Errors
    ///
    /// If no lane allows the call, returns the shortest pause.
    async fn try_all<'a>(
        &self,
        lanes: &[&'a Lane],
        call: CallId,
        is_retry: bool,
    ) -> Result<&'a Lane, Pause> {
        let mut pauses = Vec::new();
        for &lane in lanes {
            match self.try_acquire(lane, call, is_retry).await {
                Ok(Acquisition::Granted) => return Ok(lane),
                Ok(Acquisition::Denied(pause)) => pauses.push(pause),
                Err(error) => {
                    tracing::debug!(%error, %lane, "The lane's state could not be read, so the lane counts as available");
                    return Ok(lane);
                }
            }
        }
        // The model counts as retired only if every lane says so. So the pause of a retired model
        // sorts last.
        let retired = PauseReason::Answers(Class::ModelRetired);
        let pauses = pauses.into_iter();
        let shortest = pauses.min_by_key(|pause| (pause.reason == retired, pause.wait));
        Err(shortest.expect("a model has a lane"))
    }

    async fn try_acquire(
        &self,
        lane: &Lane,
        call: CallId,
        is_retry: bool,
    ) -> Result<Acquisition, QueueError> {
        let (lanes, max_duration) = (&self.app.lanes, self.max_duration(lane));
        lanes
            .acquire(lane, self.tenant, call, max_duration, is_retry)
            .await
    }

    /// Releases a call's place on its lane and reports the call's result. `None` reports no result.
    /// If Redis does not answer, the place becomes free by itself after the call's longest
    /// duration.
    pub(super) async fn release(&self, lane: &Lane, id: CallId, result: Option<CallResult>) {
        let (lanes, max_duration) = (&self.app.lanes, self.max_duration(lane));
        let released = lanes.release(lane, self.tenant, id, result, max_duration);
        if let Err(error) = released.await {
            tracing::debug!(%error, %lane, "The call could not be released from its lane, so its result was not reported");
        }
        self.app.lane_waiters.call_ended(lane);
    }

    /// The time from its start after which a call on this lane counts as ended.
    fn max_duration(&self, lane: &Lane) -> Duration {
        // A call of an earlier attempt may be on a lane whose model is no longer in the catalogue.
        let model = self.app.catalog.get(&lane.model).unwrap_or(self.model);
        model.timeout + LATE_END_GRACE
    }

    /// The permit of a call that has acquired `lane`.
    pub(super) fn permit(&self, lane: &Lane, id: CallId) -> LanePermit {
        LanePermit {
            lanes: self.app.lanes.clone(),
            waiters: Arc::clone(&self.app.lane_waiters),
            tasks: self.app.tasks.clone(),
            lane: lane.clone(),
            tenant: self.tenant,
            id,
            max_duration: self.max_duration(lane),
            is_handed_over: false,
        }
    }
}

/// A call's place on its lane. Dropping it releases the place without a result, also when the
/// attempt fails or is dropped.
pub(super) struct LanePermit {
    lanes: Lanes,
    waiters: Arc<LaneWaiters>,
    tasks: TaskTracker,
    lane: Lane,
    tenant: TenantId,
    id: CallId,
    max_duration: Duration,
    /// Whether dropping this must not release the place: it was released with the call's result, or
    /// it will be when the provider's operation ends.
    pub(super) is_handed_over: bool,
}

impl Drop for LanePermit {
    fn drop(&mut self) {
        if self.is_handed_over {
            return;
        }
        let (lanes, lane, tenant) = (self.lanes.clone(), self.lane.clone(), self.tenant);
        let (id, max_duration) = (self.id, self.max_duration);
        let waiters = Arc::clone(&self.waiters);
        self.tasks.spawn(async move {
            let _result = lanes.release(&lane, tenant, id, None, max_duration).await;
            waiters.call_ended(&lane);
        });
    }
}

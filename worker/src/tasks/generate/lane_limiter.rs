//! The door to the lanes: a call is let in before it is journaled, and however it ends, its lane hears of it.

use std::time::{Duration, Instant};

use common::catalog::{Lane, Model};
use common::id::{CallId, TenantId};
use common::outcome::Class;
use common::queue::lanes::{Acquisition, CallResult, Pause, PauseReason};
use common::queue::{Lanes, QueueError};
use rand::RngExt;
use tokio_util::task::TaskTracker;

use crate::app::App;

/// How long an attempt waits for a lane that is full, and how often it looks; then another job may have the slot.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
const POLL_INTERVAL: Duration = Duration::from_millis(60);
/// How long a call may count as in flight after its time, when nobody reports its end.
const LATE_END_GRACE: Duration = Duration::from_secs(30);

/// The lanes, as one job sees them.
pub(super) struct LaneLimiter<'a> {
    pub app: &'a App,
    pub tenant: TenantId,
    pub model: &'a Model,
}

impl LaneLimiter<'_> {
    /// The first lane that lets the call in, in the catalogue's order. Where all are full a moment's wait is worth more
    /// than the way back through the queue.
    pub(super) async fn acquire<'a>(
        &self,
        lanes: &[&'a Lane],
        call: CallId,
        retry: bool,
    ) -> Result<&'a Lane, Pause> {
        let asked = Instant::now();
        loop {
            let mut pauses = Vec::new();
            for &lane in lanes {
                match self.try_acquire(lane, call, retry).await {
                    Ok(Acquisition::Granted) => return Ok(lane),
                    Ok(Acquisition::Denied(pause)) => pauses.push(pause),
                    Err(error) => {
                        tracing::debug!(%error, %lane, "Nothing is known of the lane; it is taken as open");
                        return Ok(lane);
                    }
                }
            }
            // A retired model is the answer only where every lane says so.
            let retired = PauseReason::Answers(Class::ModelRetired);
            let pauses = pauses.into_iter();
            let shortest = pauses.min_by_key(|pause| (pause.reason == retired, pause.wait));
            let pause = shortest.expect("a model has a lane");
            let patient = pause.reason == PauseReason::Full && asked.elapsed() < ACQUIRE_TIMEOUT;
            if !patient || self.app.stopping.is_cancelled() {
                return Err(pause);
            }
            let look = POLL_INTERVAL.mul_f64(rand::rng().random_range(0.7..1.3));
            tokio::time::sleep(look).await;
        }
    }

    async fn try_acquire(
        &self,
        lane: &Lane,
        call: CallId,
        retry: bool,
    ) -> Result<Acquisition, QueueError> {
        let (lanes, time) = (&self.app.lanes, self.time(lane));
        lanes.acquire(lane, self.tenant, call, time, retry).await
    }

    /// Tells the lane how a call ended, `None`: nothing about it. No harm is done when it does not hear of it.
    pub(super) async fn release(&self, lane: &Lane, id: CallId, ended: Option<CallResult>) {
        let (lanes, time) = (&self.app.lanes, self.time(lane));
        let told = lanes.release(lane, self.tenant, id, ended, time).await;
        if let Err(error) = told {
            tracing::debug!(%error, %lane, "The lane was not told how the call ended");
        }
    }

    /// Until a call on this lane counts as over.
    fn time(&self, lane: &Lane) -> Duration {
        let model = self.app.catalog.get(&lane.model).unwrap_or(self.model);
        model.timeout + LATE_END_GRACE
    }

    /// Watches over a call that was let in.
    pub(super) fn permit(&self, lane: &Lane, id: CallId) -> LanePermit {
        LanePermit {
            lanes: self.app.lanes.clone(),
            tasks: self.app.tasks.clone(),
            lane: lane.clone(),
            tenant: self.tenant,
            id,
            time: self.time(lane),
            released: false,
        }
    }
}

/// A call that a lane let in. However the attempt ends, the lane is told that it is over.
pub(super) struct LanePermit {
    lanes: Lanes,
    tasks: TaskTracker,
    lane: Lane,
    tenant: TenantId,
    id: CallId,
    time: Duration,
    /// It was told, or is told when the provider answers.
    pub(super) released: bool,
}

impl Drop for LanePermit {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let (lanes, lane, tenant) = (self.lanes.clone(), self.lane.clone(), self.tenant);
        let (id, time) = (self.id, self.time);
        self.tasks.spawn(async move {
            let _unheard = lanes.release(&lane, tenant, id, None, time).await;
        });
    }
}

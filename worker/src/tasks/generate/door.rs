//! The door to the lanes: a call is let in before it is journaled, and however it ends, its lane hears of it.

use std::time::{Duration, Instant};

use common::catalog::{Lane, Model};
use common::id::{CallId, TenantId};
use common::outcome::Class;
use common::queue::lanes::{Ended, Entry, Pause, Why};
use common::queue::{Lanes, RingError};
use rand::RngExt;
use tokio_util::task::TaskTracker;

use crate::app::App;

/// How long an attempt waits for a lane that is full, and how often it looks; then another job may have the slot.
pub(super) const AT_THE_DOOR: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(60);
/// How long a call may count as in flight after its time, when nobody reports its end.
const ENDS_LATE: Duration = Duration::from_secs(30);

/// The lanes, as one job sees them.
pub(super) struct Door<'a> {
    pub app: &'a App,
    pub tenant: TenantId,
    pub model: &'a Model,
}

impl Door<'_> {
    /// The first lane that lets the call in, in the catalogue's order. Where all are full a moment's wait is worth more
    /// than the way back through the queue.
    pub(super) async fn let_in<'a>(
        &self,
        lanes: &[&'a Lane],
        call: CallId,
        retry: bool,
    ) -> Result<&'a Lane, Pause> {
        let asked = Instant::now();
        loop {
            let mut pauses = Vec::new();
            for &lane in lanes {
                match self.enter(lane, call, retry).await {
                    Ok(Entry::Open) => return Ok(lane),
                    Ok(Entry::Closed(pause)) => pauses.push(pause),
                    Err(error) => {
                        tracing::debug!(%error, %lane, "Nothing is known of the lane; it is taken as open");
                        return Ok(lane);
                    }
                }
            }
            // A retired model is the answer only where every lane says so.
            let retired = Why::Answers(Class::ModelRetired);
            let pauses = pauses.into_iter();
            let shortest = pauses.min_by_key(|pause| (pause.why == retired, pause.wait));
            let pause = shortest.expect("a model has a lane");
            let patient = pause.why == Why::Full && asked.elapsed() < AT_THE_DOOR;
            if !patient || self.app.stopping.is_cancelled() {
                return Err(pause);
            }
            let look = LOOK.mul_f64(rand::rng().random_range(0.7..1.3));
            tokio::time::sleep(look).await;
        }
    }

    async fn enter(&self, lane: &Lane, call: CallId, retry: bool) -> Result<Entry, RingError> {
        let (lanes, time) = (&self.app.lanes, self.time(lane));
        lanes.enter(lane, self.tenant, call, time, retry).await
    }

    /// Tells the lane how a call ended, `None`: nothing about it. No harm is done when it does not hear of it.
    pub(super) async fn tell(&self, lane: &Lane, id: CallId, ended: Option<Ended>) {
        let (lanes, time) = (&self.app.lanes, self.time(lane));
        let told = lanes.leave(lane, self.tenant, id, ended, time).await;
        if let Err(error) = told {
            tracing::debug!(%error, %lane, "The lane was not told how the call ended");
        }
    }

    /// Until a call on this lane counts as over.
    fn time(&self, lane: &Lane) -> Duration {
        let model = self.app.catalog.get(&lane.model).unwrap_or(self.model);
        model.timeout + ENDS_LATE
    }

    /// Watches over a call that was let in.
    pub(super) fn entered(&self, lane: &Lane, id: CallId) -> Entered {
        Entered {
            lanes: self.app.lanes.clone(),
            tasks: self.app.tasks.clone(),
            lane: lane.clone(),
            tenant: self.tenant,
            id,
            time: self.time(lane),
            told: false,
        }
    }
}

/// A call that a lane let in. However the attempt ends, the lane is told that it is over.
pub(super) struct Entered {
    lanes: Lanes,
    tasks: TaskTracker,
    lane: Lane,
    tenant: TenantId,
    id: CallId,
    time: Duration,
    /// It was told, or is told when the provider answers.
    pub(super) told: bool,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        let (lanes, lane, tenant) = (self.lanes.clone(), self.lane.clone(), self.tenant);
        let (id, time) = (self.id, self.time);
        self.tasks.spawn(async move {
            let _unheard = lanes.leave(&lane, tenant, id, None, time).await;
        });
    }
}

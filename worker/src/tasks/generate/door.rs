//! The door to the lanes: a call is let in before it is journaled, and however it ends, its lane hears of it.

use std::time::{Duration, Instant};

use common::catalog::{Lane, Model};
use common::id::CallId;
use common::outcome::Class;
use common::queue::Lanes;
use common::queue::lanes::{Ended, Entry, Pause, Why};
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
                let time = self.time(lane);
                match self.app.lanes.enter(lane, call, time, retry).await {
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

    /// Tells the lane how a call ended, `None`: nothing about it. No harm is done when it does not hear of it.
    pub(super) async fn tell(&self, lane: &Lane, id: CallId, ended: Option<Ended>) {
        let time = self.time(lane);
        if let Err(error) = self.app.lanes.leave(lane, id, ended, time).await {
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
        let (lanes, lane, id, time) = (self.lanes.clone(), self.lane.clone(), self.id, self.time);
        self.tasks.spawn(async move {
            let _unheard = lanes.leave(&lane, id, None, time).await;
        });
    }
}

//! The earlier calls for one output. They decide whether another call is worth it, and on which
//! lanes.

use domain::catalog::Lane;
use domain::outcome::{Class, Failure, may_call_again};

/// The lane and the failure of each earlier call for one output, oldest first.
#[derive(Default)]
pub(super) struct PriorCalls(Vec<(Lane, Failure)>);

impl PriorCalls {
    /// Adds the latest call.
    pub(super) fn add(&mut self, lane: &Lane, failure: &Failure) {
        self.0.push((lane.clone(), failure.clone()));
    }

    /// The class of each call, oldest first.
    pub(super) fn classes(&self) -> Vec<Class> {
        self.0.iter().map(|(_, failure)| failure.class).collect()
    }

    /// The failure of the latest call.
    pub(super) fn last(&self) -> Option<&Failure> {
        self.0.last().map(|(_, failure)| failure)
    }

    /// The lanes that may still make the output. A lane is ruled out if its last call failed in a
    /// way that concerns this lane alone, and no further call on this lane is worth it.
    pub(super) fn usable_lanes<'a>(&self, lanes: &'a [Lane]) -> Vec<&'a Lane> {
        let ruled_out = |lane: &Lane| {
            let calls = self.0.iter().filter(|(called, _)| called == lane);
            let classes: Vec<Class> = calls.map(|(_, failure)| failure.class).collect();
            // `false`: whether another call is worth it on this lane, not on any other.
            classes
                .last()
                .is_some_and(|last| last.contract().retry_on_other_lane)
                && !may_call_again(&classes, false)
        };
        lanes.iter().filter(|lane| !ruled_out(lane)).collect()
    }

    /// Whether another call for the output is worth it, on one of the model's `lanes`.
    pub(super) fn allow_another(&self, lanes: &[Lane]) -> bool {
        let has_lane = !self.usable_lanes(lanes).is_empty();
        has_lane && may_call_again(&self.classes(), has_lane)
    }
}

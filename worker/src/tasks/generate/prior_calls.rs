//! What is known of one output's calls, and what follows for the next.

use common::catalog::Lane;
use common::outcome::{Class, Failure, worth_another_call};

/// How the calls for one output ended so far, oldest first.
#[derive(Default)]
pub(super) struct PriorCalls(Vec<(Lane, Failure)>);

impl PriorCalls {
    pub(super) fn add(&mut self, lane: &Lane, failure: &Failure) {
        self.0.push((lane.clone(), failure.clone()));
    }

    pub(super) fn classes(&self) -> Vec<Class> {
        self.0.iter().map(|(_, failure)| failure.class).collect()
    }

    pub(super) fn last(&self) -> Option<&Failure> {
        self.0.last().map(|(_, failure)| failure)
    }

    /// The lanes whose own trouble has not decided that they cannot make the output.
    pub(super) fn usable_lanes<'a>(&self, lanes: &'a [Lane]) -> Vec<&'a Lane> {
        let ruled_out = |lane: &Lane| {
            let calls = self.0.iter().filter(|(on, _)| on == lane);
            let classes: Vec<Class> = calls.map(|(_, failure)| failure.class).collect();
            classes
                .last()
                .is_some_and(|last| last.contract().retry_on_other_lane)
                && !worth_another_call(&classes, false)
        };
        lanes.iter().filter(|lane| !ruled_out(lane)).collect()
    }

    /// Whether another call may succeed.
    pub(super) fn allow_another(&self, lanes: &[Lane]) -> bool {
        let open = !self.usable_lanes(lanes).is_empty();
        open && worth_another_call(&self.classes(), open)
    }
}

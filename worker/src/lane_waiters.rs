//! The attempts of this worker that wait for a full lane.
//!
//! Of the attempts of one tenant that wait for the same lane, only the first asks Redis. So a
//! hundred waiting attempts cost no more than one. The end of a call of this worker wakes the first
//! attempt of each tenant at once. The end of another worker's call is found by asking again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::catalog::Lane;
use domain::id::TenantId;
use tokio::sync::{Notify, OwnedMutexGuard};

/// The attempts of one tenant that wait for one lane.
type Place = (Lane, TenantId);

/// The attempts that wait.
#[derive(Default)]
pub struct LaneWaiters {
    turns: Mutex<HashMap<Place, Arc<tokio::sync::Mutex<()>>>>,
    ends: Mutex<HashMap<Lane, Arc<Notify>>>,
}

/// The right to ask for a lane. The next attempt asks when this value is dropped.
pub struct Turn<'a> {
    waiters: &'a LaneWaiters,
    place: Place,
    guard: Option<OwnedMutexGuard<()>>,
}

impl LaneWaiters {
    /// Waits until no earlier attempt of the tenant asks for the lane. Attempts come in the order in
    /// which they called this.
    pub async fn turn(&self, lane: &Lane, tenant: TenantId) -> Turn<'_> {
        let place = (lane.clone(), tenant);
        let waiting = Arc::clone(lock(&self.turns).entry(place.clone()).or_default());
        // Built before the wait, so that it cleans up also if the wait is given up.
        let mut turn = Turn {
            waiters: self,
            place,
            guard: None,
        };
        turn.guard = Some(waiting.lock_owned().await);
        turn
    }

    /// What is notified when a call of this worker on the lane has ended.
    pub fn ends(&self, lane: &Lane) -> Arc<Notify> {
        Arc::clone(lock(&self.ends).entry(lane.clone()).or_default())
    }

    /// Wakes the attempts whose turn it is, because a call on the lane has ended.
    pub fn call_ended(&self, lane: &Lane) {
        if let Some(ends) = lock(&self.ends).get(lane) {
            ends.notify_waiters();
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.guard = None;
        let mut turns = lock(&self.waiters.turns);
        // The map holds the only reference if nobody waits. References are taken under this lock.
        if turns
            .get(&self.place)
            .is_some_and(|turn| Arc::strong_count(turn) == 1)
        {
            turns.remove(&self.place);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn lane(model: &str) -> Lane {
        format!("vertex/global/{model}").parse().unwrap()
    }

    #[tokio::test]
    async fn only_one_attempt_of_a_tenant_asks_for_a_lane() {
        let waiters = LaneWaiters::default();
        let (one, other) = (TenantId::new(), TenantId::new());
        let (a, b) = (lane("a"), lane("b"));
        let first = waiters.turn(&a, one).await;
        let mut second = Box::pin(waiters.turn(&a, one));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(waiters.turn(&a, one).now_or_never().is_none());
        drop(waiters.turn(&a, other).await);
        drop(waiters.turn(&b, one).await);
        drop(first);
        drop(second.await);
        assert!(lock(&waiters.turns).is_empty());
    }

    #[tokio::test]
    async fn the_end_of_a_call_wakes_who_waits() {
        let waiters = LaneWaiters::default();
        let ends = waiters.ends(&lane("a"));
        let mut woken = Box::pin(ends.notified());
        woken.as_mut().enable();
        waiters.call_ended(&lane("b"));
        assert!(woken.as_mut().now_or_never().is_none());
        waiters.call_ended(&lane("a"));
        woken.await;
    }
}

//! The attempts of this worker that wait for a full lane.
//!
//! Of the attempts of one tenant that wait for the same lane, only the first asks Redis. So a
//! hundred waiting attempts cost no more than one. When a call of this worker ends, the first
//! attempt of each tenant that waits for the call's lane asks again at once. The end of another
//! worker's call is found only by asking again after a delay.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::catalog::Lane;
use domain::id::TenantId;
use tokio::sync::{Notify, OwnedMutexGuard};

/// The attempts of one tenant that wait for one lane form one queue.
type QueueKey = (Lane, TenantId);

/// The attempts that wait.
#[derive(Default)]
pub struct LaneWaiters {
    /// One lock for each queue. The attempt that holds it asks Redis for the lane, and the others
    /// wait for the lock in their order. An entry is removed when its last attempt has left.
    turns: Mutex<HashMap<QueueKey, Arc<tokio::sync::Mutex<()>>>>,
    /// Notified when a call of this worker on the lane has ended.
    ends: Mutex<HashMap<Lane, Arc<Notify>>>,
}

/// The right to ask for a lane. The next attempt asks when this value is dropped.
pub struct Turn<'a> {
    waiters: &'a LaneWaiters,
    key: QueueKey,
    /// `None` while the attempt waits for its turn.
    guard: Option<OwnedMutexGuard<()>>,
}

impl LaneWaiters {
    /// Waits until no earlier attempt of the tenant asks for the lane. Attempts get their turn in
    /// the order in which they called this function.
    pub async fn turn(&self, lane: &Lane, tenant: TenantId) -> Turn<'_> {
        let key = (lane.clone(), tenant);
        let turn_lock = Arc::clone(lock(&self.turns).entry(key.clone()).or_default());
        // Built before the wait, so that its drop removes the entry even if the wait is abandoned.
        let mut turn = Turn {
            waiters: self,
            key,
            guard: None,
        };
        turn.guard = Some(turn_lock.lock_owned().await);
        turn
    }

    /// Returns what is notified each time a call of this worker on the lane has ended.
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
        // The guard holds a reference, too, so it is dropped before the references are counted.
        self.guard = None;
        let mut turns = lock(&self.waiters.turns);
        // The map holds the only reference if nobody waits. References are taken under this lock.
        if turns
            .get(&self.key)
            .is_some_and(|turn| Arc::strong_count(turn) == 1)
        {
            turns.remove(&self.key);
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

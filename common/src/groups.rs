//! Group commit: the queue of each tenant, and the task that empties it.
//!
//! Some procedures lock the wallet of a tenant, so those of one tenant run one after the other anyway. A second one cannot be
//! faster than the first, but a hundred can be as fast as one: the first member begins a task, and members that arrive while the
//! task works wait in a queue. When the task has committed, it takes all that wait as one group, and ends when none waits.
//!
//! A queue belongs to one process. Between processes the lock of the wallet decides.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::id::TenantId;

/// The waiting members of all tenants. Clones share them.
pub struct Groups<T> {
    /// A queue exists while a task works for its tenant.
    queues: Arc<Mutex<HashMap<TenantId, VecDeque<T>>>>,
}

impl<T> Clone for Groups<T> {
    fn clone(&self) -> Self {
        Self {
            queues: Arc::clone(&self.queues),
        }
    }
}

impl<T> Default for Groups<T> {
    fn default() -> Self {
        Self {
            queues: Arc::default(),
        }
    }
}

impl<T> Groups<T> {
    /// Adds a member to the queue of a tenant. Returns the [`Turn`] with which a task must be begun, or `None` if the tenant has a
    /// task, which will take the member. `member` makes the member; it is told whether there is a task.
    ///
    /// # Errors
    /// Returns the error of `member`. Nothing was added then.
    pub fn join<E>(
        &self,
        tenant: TenantId,
        member: impl FnOnce(bool) -> Result<T, E>,
    ) -> Result<Option<Turn<T>>, E> {
        let mut queues = self.queues();
        let has_task = queues.contains_key(&tenant);
        let member = member(has_task)?;
        queues.entry(tenant).or_default().push_back(member);
        Ok((!has_task).then(|| Turn {
            groups: self.clone(),
            tenant,
            ended: false,
        }))
    }

    /// Removes the member for which `is_wanted` holds from the queue of a tenant. Returns `false` if it does not wait any more.
    pub fn withdraw(&self, tenant: TenantId, is_wanted: impl FnMut(&T) -> bool) -> bool {
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(&tenant) else {
            return false;
        };
        let at = queue.iter().position(is_wanted);
        at.and_then(|at| queue.remove(at)).is_some()
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<TenantId, VecDeque<T>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to work for a tenant. While it exists, members that join wait for it.
///
/// A task that panics drops it. The members that wait are dropped as well, and the next one that joins begins another task.
pub struct Turn<T> {
    groups: Groups<T>,
    tenant: TenantId,
    /// Whether the queue was removed. A queue that the tenant has later belongs to another turn.
    ended: bool,
}

impl<T> Turn<T> {
    /// The tenant for which the task works.
    pub const fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Drops the members that are not `wanted` any more, and takes up to `max` of the others, in their order. Returns `None` if
    /// none waits: then the turn has ended.
    pub fn take(&mut self, max: usize, wanted: impl FnMut(&T) -> bool) -> Option<Vec<T>> {
        let mut queues = self.groups.queues();
        let queue = queues.get_mut(&self.tenant)?;
        queue.retain(wanted);
        if queue.is_empty() {
            queues.remove(&self.tenant);
            self.ended = true;
            return None;
        }
        let count = max.min(queue.len());
        Some(queue.drain(..count).collect())
    }
}

impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        if !self.ended {
            self.groups.queues().remove(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use uuid::Uuid;

    use super::*;

    fn join(groups: &Groups<u32>, tenant: TenantId, member: u32) -> Option<Turn<u32>> {
        let Ok(turn) = groups.join(tenant, |_| Ok::<_, Infallible>(member));
        turn
    }

    #[test]
    fn members_that_join_a_task_are_taken_in_their_order() {
        let groups = Groups::default();
        let tenant = TenantId::from(Uuid::from_u128(1));
        let mut turn = join(&groups, tenant, 1).expect("the first member begins a task");
        for member in 2..=5 {
            assert!(join(&groups, tenant, member).is_none());
        }
        assert!(groups.withdraw(tenant, |&member| member == 3));
        assert!(!groups.withdraw(tenant, |&member| member == 3));
        assert_eq!(turn.take(2, |&member| member != 1), Some(vec![2, 4]));
        assert_eq!(turn.take(2, |_| true), Some(vec![5]));
        assert_eq!(turn.take(2, |_| true), None);
        drop(turn);
        assert!(join(&groups, tenant, 6).is_some());
    }

    #[test]
    fn a_turn_that_has_ended_leaves_a_later_one_alone() {
        let groups = Groups::default();
        let tenant = TenantId::from(Uuid::from_u128(1));
        let mut ended = join(&groups, tenant, 1).expect("a turn");
        ended.take(1, |_| true);
        assert_eq!(ended.take(1, |_| true), None);
        let mut later = join(&groups, tenant, 2).expect("a turn");
        drop(ended);
        assert_eq!(later.take(1, |_| true), Some(vec![2]));
    }

    #[test]
    fn a_task_that_panics_lets_the_next_member_begin_another() {
        let groups = Groups::default();
        let tenant = TenantId::from(Uuid::from_u128(1));
        drop(join(&groups, tenant, 1));
        let mut turn = join(&groups, tenant, 2).expect("another turn");
        assert_eq!(turn.take(2, |_| true), Some(vec![2]));
    }

    #[test]
    fn a_member_that_is_refused_begins_no_task() {
        let groups = Groups::<u32>::default();
        let tenant = TenantId::from(Uuid::from_u128(1));
        assert!(groups.join(tenant, |_| Err("no room")).is_err());
        assert!(join(&groups, tenant, 1).is_some());
    }
}

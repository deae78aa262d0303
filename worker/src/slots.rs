//! How many jobs run in this worker at once: its slots, and a reserve that one tenant cannot fill.
//!
//! The slots (`PLATEN_SLOTS`) take whatever job comes first, so a single tenant may use all of
//! them. The reserve has half as many further places. It is used only while all slots are taken,
//! and only for a job
//!
//! - whose tenant runs fewer jobs of the same model, in slots and reserve together, than half the
//!   number of slots,
//! - whose tenant has less than half of the reserve, and whose model has less than three quarters
//!   of the reserve.
//!
//! So a worker with 16 slots that are full of one tenant's slow jobs still has eight places: for
//! other tenants' jobs of the same model, and for the same tenant's jobs of other models.
//! `PLATEN_TENANT_SLOTS_PERCENT`, times the tenant's weight, limits how many jobs one tenant may
//! run, in slots and reserve together, as a percentage of the number of slots. By default there is
//! no limit.
//!
//! Each worker counts its own jobs in memory, so no row is written or locked for the count. The
//! claim excludes the jobs of tenants and models that have reached a limit. If a limit applies,
//! claims are made one at a time, because two claims at once would each miss the other's job in the
//! count.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::id::TenantId;
use domain::job::{Claimed, Exclusion};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore};

/// The slots and the reserve of a worker, and which jobs occupy them.
pub struct Slots {
    /// How many slots there are.
    pub regular: usize,
    /// The free slots, with one permit for each.
    pub free_regular: Arc<Semaphore>,
    /// How many places the reserve has.
    pub reserve: usize,
    /// The free places of the reserve, with one permit for each.
    pub free_reserve: Arc<Semaphore>,
    /// How many jobs a tenant of weight 1 may run, in slots and reserve together, as a percentage
    /// of the number of slots. From 100 on there is no limit.
    tenant_percent: usize,
    /// The weights of tenants whose weight is not 1.
    weights: Mutex<HashMap<TenantId, usize>>,
    /// The running jobs.
    occupants: Arc<Mutex<Vec<Occupant>>>,
    /// Held while a job is claimed and counted: shared if no limit applies to the claim, else
    /// exclusive.
    claim_lock: RwLock<()>,
    /// When Postgres was last asked for due jobs that may start in the reserve.
    due_jobs_queried_at: Mutex<Option<Instant>>,
}

/// How often Postgres is asked for due jobs that may start in the reserve. New jobs come through
/// Redis and need no query.
const DUE_QUERY_INTERVAL: Duration = Duration::from_secs(1);

/// A running job, which takes a slot or a place of the reserve.
#[derive(Clone, PartialEq, Eq)]
struct Occupant {
    tenant: TenantId,
    /// Catalogue id of the model.
    model: String,
    in_reserve: bool,
}

/// The place of a running job. The job counts until this value is dropped.
#[must_use]
pub struct OccupiedSlot {
    occupants: Arc<Mutex<Vec<Occupant>>>,
    occupant: Occupant,
}

impl Drop for OccupiedSlot {
    fn drop(&mut self) {
        let mut occupants = self
            .occupants
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Which of several equal entries is removed makes no difference.
        if let Some(at) = occupants
            .iter()
            .position(|occupant| *occupant == self.occupant)
        {
            occupants.swap_remove(at);
        }
    }
}

/// The right to claim one job.
#[must_use]
pub enum ClaimPermit<'a> {
    /// Other claims may run at the same time: no limit applies.
    Shared(RwLockReadGuard<'a, ()>),
    /// No other claim runs, so the counts stay exact until the job is counted.
    Exclusive(RwLockWriteGuard<'a, ()>),
}

/// How many places the reserve of a worker with `slots` slots has.
pub fn reserve(slots: usize) -> usize {
    slots.div_ceil(2)
}

impl Slots {
    /// Creates `slots` slots and the places of the reserve ([`reserve`]); all are free.
    /// `tenant_percent` is how many jobs a tenant of weight 1 may run, in slots and reserve
    /// together, as a percentage of `slots`. From 100 on there is no limit.
    pub fn new(slots: usize, tenant_percent: usize) -> Self {
        let reserve = reserve(slots);
        Self {
            regular: slots,
            free_regular: Arc::new(Semaphore::new(slots)),
            reserve,
            free_reserve: Arc::new(Semaphore::new(reserve)),
            tenant_percent,
            weights: Mutex::default(),
            occupants: Arc::default(),
            claim_lock: RwLock::default(),
            due_jobs_queried_at: Mutex::default(),
        }
    }

    /// The most jobs that run at once: slots and reserve.
    pub fn total(&self) -> usize {
        self.regular + self.reserve
    }

    /// How many jobs of a tenant this worker runs.
    pub fn jobs_of(&self, tenant: TenantId) -> usize {
        let occupants = self.occupants.lock();
        let occupants = occupants.unwrap_or_else(PoisonError::into_inner);
        let is_of_tenant = |occupant: &&Occupant| occupant.tenant == tenant;
        occupants.iter().filter(is_of_tenant).count()
    }

    /// Waits until a claim may be made. `in_reserve` says that the job is to start in the reserve.
    /// While the permit is held, no other claim can make a tenant or model reach a limit, so
    /// [`Self::exclusions`] names all that have. Keep the permit until [`Self::occupy`] has counted
    /// the claimed job.
    pub async fn claim_permit(&self, in_reserve: bool) -> ClaimPermit<'_> {
        if in_reserve || self.has_tenant_limits() {
            ClaimPermit::Exclusive(self.claim_lock.write().await)
        } else {
            ClaimPermit::Shared(self.claim_lock.read().await)
        }
    }

    /// Counts a claimed job. `in_reserve` says that the job takes a place of the reserve.
    pub fn occupy(&self, claimed: &Claimed, in_reserve: bool) -> OccupiedSlot {
        let occupant = Occupant {
            tenant: claimed.tenant,
            model: claimed.model.clone(),
            in_reserve,
        };
        let mut occupants = self
            .occupants
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        occupants.push(occupant.clone());
        OccupiedSlot {
            occupants: Arc::clone(&self.occupants),
            occupant,
        }
    }

    /// Whether the number of jobs that one tenant may run is limited, so that its weight matters.
    pub fn has_tenant_limits(&self) -> bool {
        self.tenant_percent < 100
    }

    /// Whether every slot is taken, so that jobs may start in the reserve.
    pub fn is_full(&self) -> bool {
        let occupants = self
            .occupants
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let in_slots = occupants.iter().filter(|occupant| !occupant.in_reserve);
        in_slots.count() >= self.regular
    }

    /// Whether Postgres may be asked again for due jobs that may start in the reserve. A `true`
    /// begins the next interval of [`DUE_QUERY_INTERVAL`].
    pub fn may_query_due_jobs(&self) -> bool {
        let mut queried_at = self
            .due_jobs_queried_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let due = queried_at.is_none_or(|at| at.elapsed() >= DUE_QUERY_INTERVAL);
        if due {
            *queried_at = Some(Instant::now());
        }
        due
    }

    /// How many places of the reserve are taken.
    pub fn reserve_taken(&self) -> usize {
        let occupants = self
            .occupants
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        occupants
            .iter()
            .filter(|occupant| occupant.in_reserve)
            .count()
    }

    /// Replaces the weights of the tenants. A tenant that is not named has weight 1.
    pub fn set_weights(&self, weights: HashMap<TenantId, usize>) {
        *self.weights.lock().unwrap_or_else(PoisonError::into_inner) = weights;
    }

    /// The tenants and models whose jobs may not start now: in the reserve if `in_reserve` is set,
    /// else in a slot.
    pub fn exclusions(&self, in_reserve: bool) -> Vec<Exclusion> {
        if !in_reserve && !self.has_tenant_limits() {
            return Vec::new();
        }
        let occupants = self
            .occupants
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // All jobs of each tenant, and those of them that are in the reserve.
        let mut per_tenant: HashMap<TenantId, (usize, usize)> = HashMap::new();
        // Only the jobs in the reserve.
        let mut reserve_per_model: HashMap<&str, usize> = HashMap::new();
        // All jobs of a tenant and a model.
        let mut per_pair: HashMap<(TenantId, &str), usize> = HashMap::new();
        for occupant in occupants.iter() {
            let reserve_places = usize::from(occupant.in_reserve);
            let of_tenant = per_tenant.entry(occupant.tenant).or_default();
            of_tenant.0 += 1;
            of_tenant.1 += reserve_places;
            *reserve_per_model.entry(&occupant.model).or_default() += reserve_places;
            *per_pair
                .entry((occupant.tenant, &occupant.model))
                .or_default() += 1;
        }
        let exclusion = |model: Option<&str>, tenant: Option<TenantId>| Exclusion {
            model: model.map(str::to_owned),
            tenant: tenant.map(TenantId::pseudonym),
            on_all_lanes: true,
        };
        // At least one. With a limit of 0, a worker with one slot would exclude every tenant that
        // has a running job.
        let half = |count: usize| (count / 2).max(1);
        let mut exclusions = Vec::new();
        for (&tenant, &(count, reserve_count)) in &per_tenant {
            if count >= self.tenant_limit(tenant)
                || (in_reserve && reserve_count >= half(self.reserve))
            {
                exclusions.push(exclusion(None, Some(tenant)));
            }
        }
        if in_reserve {
            let model_limit = (self.reserve * 3 / 4).max(1);
            let models = reserve_per_model
                .iter()
                .filter(|(_, count)| **count >= model_limit);
            exclusions.extend(models.map(|(model, _)| exclusion(Some(*model), None)));
            let pairs = per_pair.iter();
            let pairs = pairs.filter(|(_, count)| **count >= half(self.regular));
            exclusions
                .extend(pairs.map(|((tenant, model), _)| exclusion(Some(*model), Some(*tenant))));
        }
        exclusions
    }

    /// How many jobs of one tenant may run in this worker at once, in slots and reserve together.
    /// `usize::MAX` means that there is no limit.
    fn tenant_limit(&self, tenant: TenantId) -> usize {
        let weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        let percent = self.tenant_percent * weights.get(&tenant).copied().unwrap_or(1);
        if percent >= 100 {
            return usize::MAX;
        }
        (self.regular * percent).div_ceil(100).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::id::JobId;

    const SLOW: &str = "slow";
    const OTHER: &str = "other";

    fn job(tenant: TenantId, model: &str) -> Claimed {
        Claimed {
            id: JobId::new(),
            tenant,
            fence: 1,
            model: model.to_owned(),
            request_id: String::new(),
            traceparent: None,
            n_requested: 1,
            fallback: true,
            calls_made: 0,
            calls_left: 1,
            waited_seconds: 0.0,
            seconds_left: 60.0,
        }
    }

    /// Whether a job could start in the reserve.
    fn may_start_in_reserve(slots: &Slots, tenant: TenantId, model: &str) -> bool {
        let pseudonym = tenant.pseudonym();
        !slots.exclusions(true).iter().any(|excluded| {
            excluded
                .model
                .as_deref()
                .is_none_or(|excluded| excluded == model)
                && excluded
                    .tenant
                    .as_ref()
                    .is_none_or(|excluded| *excluded == pseudonym)
        })
    }

    #[test]
    fn the_reserve_excludes_who_already_has_enough() {
        let slots = Slots::new(16, 100);
        let (busy, quiet, third) = (TenantId::new(), TenantId::new(), TenantId::new());
        let mut running: Vec<OccupiedSlot> = (0..16)
            .map(|_| slots.occupy(&job(busy, SLOW), false))
            .collect();
        assert!(slots.exclusions(false).is_empty(), "slots take every job");
        assert!(!may_start_in_reserve(&slots, busy, SLOW));
        assert!(may_start_in_reserve(&slots, busy, OTHER));
        assert!(may_start_in_reserve(&slots, quiet, SLOW));
        running.extend((0..4).map(|_| slots.occupy(&job(quiet, SLOW), true)));
        assert!(
            !may_start_in_reserve(&slots, quiet, SLOW),
            "half of the reserve"
        );
        assert!(!may_start_in_reserve(&slots, quiet, OTHER));
        assert!(may_start_in_reserve(&slots, third, SLOW));
        running.extend((0..2).map(|_| slots.occupy(&job(third, SLOW), true)));
        assert!(
            !may_start_in_reserve(&slots, third, SLOW),
            "three quarters of the reserve"
        );
        assert!(may_start_in_reserve(&slots, third, OTHER));
        running.clear();
        assert!(may_start_in_reserve(&slots, busy, SLOW));
    }

    #[test]
    fn a_worker_with_few_slots_excludes_only_the_busy_tenant() {
        for size in 1..=4 {
            let slots = Slots::new(size, 50);
            let tenants = [TenantId::new(), TenantId::new()];
            let half = size.div_ceil(2);
            let _running: Vec<OccupiedSlot> = (0..half)
                .map(|_| slots.occupy(&job(tenants[0], SLOW), false))
                .collect();
            let excluded = slots.exclusions(false);
            assert_eq!(excluded.len(), 1, "{size} slots");
            assert_eq!(excluded[0].tenant, Some(tenants[0].pseudonym()));
            assert!(
                may_start_in_reserve(&slots, tenants[1], SLOW),
                "{size} slots"
            );
        }
    }

    #[test]
    fn a_weight_multiplies_the_share_of_the_slots() {
        let slots = Slots::new(16, 25);
        let (plain, heavy) = (TenantId::new(), TenantId::new());
        slots.set_weights(HashMap::from([(heavy, 3)]));
        assert_eq!(
            (slots.tenant_limit(plain), slots.tenant_limit(heavy)),
            (4, 12)
        );
        slots.set_weights(HashMap::from([(heavy, 100)]));
        assert_eq!(slots.tenant_limit(heavy), usize::MAX);
    }
}

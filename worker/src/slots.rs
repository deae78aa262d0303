//! What may start on this worker: its slots, and a reserve beside them, so that nobody's jobs keep others from starting.
//!
//! The slots (`PLATEN_SLOTS`) take whatever job comes first: who is alone has all of them. Half as many again are the
//! reserve. It takes a job only while all slots are taken, and only
//!
//! - where its tenant has jobs of the same model in less than half of the slots here,
//! - where its tenant has less than half of the reserve, and its model less than three quarters of it.
//!
//! So 16 slow jobs of one tenant leave eight slots to others: to other tenants' jobs of the same model, and to the same
//! tenant's jobs of other models. `PLATEN_TENANT_SLOTS_PERCENT`, times the tenant's weight, bounds what one tenant may
//! have of the slots; by default that is all of them.
//!
//! Each worker counts what it runs itself, in memory: no row is written or locked for it. The claim leaves out
//! who has enough; for an exact count claims that may be refused are made one at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::id::TenantId;
use common::job::{Claimed, Exclusion};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore};

/// Slots, reserve, and who has how much of them.
pub struct Slots {
    /// Jobs that are worked on at once, whosever they are.
    pub slots: usize,
    pub free_slots: Arc<Semaphore>,
    /// Further ones, for whom the slots leave nothing.
    pub reserve: usize,
    pub free_reserve: Arc<Semaphore>,
    /// What one tenant of weight 1 may have of the slots, in percent.
    tenant_percent: usize,
    /// Of tenants whose weight is not 1.
    weights: Mutex<HashMap<TenantId, usize>>,
    taken: Arc<Mutex<Vec<Occupant>>>,
    claims: RwLock<()>,
    /// When Postgres was last asked for jobs that may start in the reserve.
    looked: Mutex<Option<Instant>>,
}

/// How often Postgres is asked for jobs that may start in the reserve; new ones are told by Redis.
const DUE_QUERY_INTERVAL: Duration = Duration::from_secs(1);

/// A place that is taken.
#[derive(Clone, PartialEq, Eq)]
struct Occupant {
    tenant: TenantId,
    model: String,
    reserved: bool,
}

/// A job that is counted until this is dropped.
#[must_use]
pub struct OccupiedSlot {
    taken: Arc<Mutex<Vec<Occupant>>>,
    place: Occupant,
}

impl Drop for OccupiedSlot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = taken.iter().position(|taken| *taken == self.place) {
            taken.swap_remove(at);
        }
    }
}

/// The right to claim a job: beside others, or alone.
#[must_use]
pub enum ClaimPermit<'a> {
    Shared(RwLockReadGuard<'a, ()>),
    Exclusive(RwLockWriteGuard<'a, ()>),
}

/// Places beside so many slots.
pub fn reserve(slots: usize) -> usize {
    slots.div_ceil(2)
}

impl Slots {
    pub fn new(slots: usize, tenant_percent: usize) -> Self {
        let reserve = reserve(slots);
        Self {
            slots,
            free_slots: Arc::new(Semaphore::new(slots)),
            reserve,
            free_reserve: Arc::new(Semaphore::new(reserve)),
            tenant_percent,
            weights: Mutex::default(),
            taken: Arc::default(),
            claims: RwLock::default(),
            looked: Mutex::default(),
        }
    }

    /// All places: as many jobs run at most.
    pub fn total(&self) -> usize {
        self.slots + self.reserve
    }

    /// Waits until a claim may be made whose [`Self::shut`] holds until the job is counted.
    pub async fn claim_permit(&self, reserved: bool) -> ClaimPermit<'_> {
        if reserved || self.has_tenant_limits() {
            ClaimPermit::Exclusive(self.claims.write().await)
        } else {
            ClaimPermit::Shared(self.claims.read().await)
        }
    }

    /// Counts a job that was claimed.
    pub fn occupy(&self, claimed: &Claimed, reserved: bool) -> OccupiedSlot {
        let place = Occupant {
            tenant: claimed.tenant,
            model: claimed.model.clone(),
            reserved,
        };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.push(place.clone());
        OccupiedSlot {
            taken: Arc::clone(&self.taken),
            place,
        }
    }

    /// Whether a weight makes any difference.
    pub fn has_tenant_limits(&self) -> bool {
        self.tenant_percent < 100
    }

    /// Whether every slot is taken, so that jobs may start in the reserve.
    pub fn is_full(&self) -> bool {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.iter().filter(|taken| !taken.reserved).count() >= self.slots
    }

    /// Whether it is time to ask Postgres for jobs that may start in the reserve; then it is for the next time.
    pub fn may_query_due_jobs(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = looked.is_none_or(|looked| looked.elapsed() >= DUE_QUERY_INTERVAL);
        if due {
            *looked = Some(Instant::now());
        }
        due
    }

    /// Places of the reserve that are taken.
    pub fn reserve_taken(&self) -> usize {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.iter().filter(|taken| taken.reserved).count()
    }

    /// Sets who has a weight other than 1.
    pub fn set_weights(&self, weights: HashMap<TenantId, usize>) {
        *self.weights.lock().unwrap_or_else(PoisonError::into_inner) = weights;
    }

    /// Whose jobs may not start now: in a slot, or in the reserve.
    pub fn exclusions(&self, reserved: bool) -> Vec<Exclusion> {
        if !reserved && !self.has_tenant_limits() {
            return Vec::new();
        }
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_tenants: HashMap<TenantId, (usize, usize)> = HashMap::new();
        let mut of_models: HashMap<&str, usize> = HashMap::new();
        let mut of_pairs: HashMap<(TenantId, &str), usize> = HashMap::new();
        for place in taken.iter() {
            let in_reserve = usize::from(place.reserved);
            let of_tenant = of_tenants.entry(place.tenant).or_default();
            of_tenant.0 += 1;
            of_tenant.1 += in_reserve;
            *of_models.entry(&place.model).or_default() += in_reserve;
            *of_pairs.entry((place.tenant, &place.model)).or_default() += 1;
        }
        let shut = |model: Option<&str>, tenant: Option<TenantId>| Exclusion {
            model: model.map(str::to_owned),
            tenant: tenant.map(TenantId::pseudonym),
            everywhere: true,
        };
        let half = |count: usize| (count / 2).max(1);
        let mut all = Vec::new();
        for (&tenant, &(count, in_reserve)) in &of_tenants {
            if count >= self.tenant_limit(tenant) || (reserved && in_reserve >= half(self.reserve))
            {
                all.push(shut(None, Some(tenant)));
            }
        }
        if reserved {
            let most = (self.reserve * 3 / 4).max(1);
            let models = of_models.iter().filter(|(_, count)| **count >= most);
            all.extend(models.map(|(model, _)| shut(Some(*model), None)));
            let pairs = of_pairs.iter();
            let pairs = pairs.filter(|(_, count)| **count >= half(self.slots));
            all.extend(pairs.map(|((tenant, model), _)| shut(Some(*model), Some(*tenant))));
        }
        all
    }

    /// Jobs of one tenant that may run here at once.
    fn tenant_limit(&self, tenant: TenantId) -> usize {
        let weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        let percent = self.tenant_percent * weights.get(&tenant).copied().unwrap_or(1);
        if percent >= 100 {
            return usize::MAX;
        }
        (self.slots * percent).div_ceil(100).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::id::JobId;

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
    fn starts(places: &Slots, tenant: TenantId, model: &str) -> bool {
        let pseudonym = tenant.pseudonym();
        !places.exclusions(true).iter().any(|shut| {
            shut.model.as_deref().is_none_or(|shut| shut == model)
                && shut.tenant.as_ref().is_none_or(|shut| *shut == pseudonym)
        })
    }

    #[test]
    fn the_reserve_is_for_those_who_have_little() {
        let places = Slots::new(16, 100);
        let (busy, quiet, third) = (TenantId::new(), TenantId::new(), TenantId::new());
        let mut taken: Vec<OccupiedSlot> = (0..16)
            .map(|_| places.occupy(&job(busy, SLOW), false))
            .collect();
        assert!(
            places.exclusions(false).is_empty(),
            "slots take whoever comes"
        );
        assert!(!starts(&places, busy, SLOW));
        assert!(starts(&places, busy, OTHER));
        assert!(starts(&places, quiet, SLOW));
        taken.extend((0..4).map(|_| places.occupy(&job(quiet, SLOW), true)));
        assert!(!starts(&places, quiet, SLOW), "half of the reserve");
        assert!(!starts(&places, quiet, OTHER));
        assert!(starts(&places, third, SLOW));
        taken.extend((0..2).map(|_| places.occupy(&job(third, SLOW), true)));
        assert!(!starts(&places, third, SLOW), "three quarters of it");
        assert!(starts(&places, third, OTHER));
        taken.clear();
        assert!(starts(&places, busy, SLOW));
    }

    #[test]
    fn few_slots_starve_nobody() {
        for slots in 1..=4 {
            let places = Slots::new(slots, 50);
            let tenants = [TenantId::new(), TenantId::new()];
            let half = slots.div_ceil(2);
            let _taken: Vec<OccupiedSlot> = (0..half)
                .map(|_| places.occupy(&job(tenants[0], SLOW), false))
                .collect();
            let shut = places.exclusions(false);
            assert_eq!(shut.len(), 1, "{slots} slots");
            assert_eq!(shut[0].tenant, Some(tenants[0].pseudonym()));
            assert!(starts(&places, tenants[1], SLOW), "{slots} slots");
        }
    }

    #[test]
    fn a_weight_widens_a_share() {
        let places = Slots::new(16, 25);
        let (plain, heavy) = (TenantId::new(), TenantId::new());
        places.set_weights(HashMap::from([(heavy, 3)]));
        assert_eq!(
            (places.tenant_limit(plain), places.tenant_limit(heavy)),
            (4, 12)
        );
        places.set_weights(HashMap::from([(heavy, 100)]));
        assert_eq!(places.tenant_limit(heavy), usize::MAX);
    }
}

//! Lanes: what all workers together know about each place a model is called at. Shared in Redis, and may vanish:
//! without it every lane is open, and each job's own delays are all that holds calls back.
//!
//! A lane lets in as many calls at once as its provider bears: one more whenever the limit was used and nothing was
//! refused, a seventh fewer when the provider says that it is busy (additive increase, multiplicative decrease; of
//! calls that were made before the last cut, none cuts again). From then on calls are let in evenly, not in bursts: a
//! provider that counts calls by the second refuses what comes at once after a pause. At its least the lane pauses
//! instead, each time longer; a provider's own hint is kept to. Retries live on a budget that successes fill: an outage is
//! not made worse.
//!
//! Strikes in a row close the lane; when the pause is over, one call probes whether it opens again. What a request
//! may have brought about (an error 500, an answer that is no picture, none at all) closes it for the tenant that
//! asked, and counts for half of what closes it for all: so it takes two tenants, and nobody's prompts stop a model
//! for others. For the same reason an eighth of the calls it lets in is kept from each tenant. Of a tenant Redis
//! holds a short hash of its id, for two hours after its last call, and its strikes for one hour after the last.
//!
//! The scripts are in `lanes/`; `shared.lua` goes before each of the others.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{RedisResult, Script, ScriptInvocation};
use time::OffsetDateTime;

use super::connection::SharedConnection;
use super::{QueueError, ReadyQueue};
use domain::catalog::{Catalog, Lane};
use domain::id::{CallId, TenantId};
use domain::lanes::{CallResult, LaneState, LaneTiming, Pause, PauseReason, UnavailableFor};
use domain::outcome::{Class, STRIKES_OUT};

/// Calls a lane lets in at once before it has learned anything.
const FIRST_LIMIT: u32 = 32;
/// What is left of the limit after a cut, in hundredths.
const CUT_PERCENT: u32 = 85;
/// Retries a lane allows out of nothing, and what one success adds, in hundredths.
const RETRY_BUDGET: u32 = 20;
const RETRY_CREDIT_PERCENT: u32 = 25;
/// A provider's hint is kept to, but not for longer than this.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(2);
/// What lanes know is forgotten when nobody has called for so long.
const LANE_TTL: Duration = Duration::from_hours(6);
/// Strikes of one tenant are forgotten when there was none for so long.
const TENANT_TTL: Duration = Duration::from_hours(1);
/// Tenants a lane is closed for that are remembered, those for the longest time: what dispatcher and claim leave out.
const MAX_UNAVAILABLE_TENANTS: usize = 200;

/// The lanes of one Platen.
#[derive(Clone)]
pub struct Lanes {
    connection: SharedConnection,
    prefix: String,
    timing: LaneTiming,
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquisition {
    Granted,
    Denied(Pause),
}

/// What the script tells of a lane: limit, calls in flight, wait, why, gap, whether it is
/// broken, by what, since when it has let nobody in, which values were corrected, and for which tenants it is closed.
type State = (
    f64,
    i64,
    u64,
    String,
    u64,
    u8,
    String,
    i64,
    String,
    Vec<(String, u64, String, i64)>,
);

static ACQUIRE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lanes/shared.lua"),
        include_str!("lanes/acquire.lua")
    ))
});
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lanes/shared.lua"),
        include_str!("lanes/release.lua")
    ))
});
static STATES: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lanes/shared.lua"),
        include_str!("lanes/states.lua")
    ))
});

impl Lanes {
    pub fn new(ring: &ReadyQueue, timing: LaneTiming) -> Self {
        Self {
            connection: ring.connection.clone(),
            prefix: format!("{}:lane", ring.keys.name),
            timing,
        }
    }

    /// Lets a call in, or says for how long not. `ends_within` bounds how long it counts when nobody reports its end.
    pub async fn acquire(
        &self,
        lane: &Lane,
        tenant: TenantId,
        call: CallId,
        ends_within: Duration,
        retry: bool,
    ) -> Result<Acquisition, QueueError> {
        let (wait, why): (u64, String) = self
            .keys(&ACQUIRE, lane, tenant)
            .arg(call.0.simple().to_string())
            .arg(millis(ends_within))
            .arg(FIRST_LIMIT)
            .arg(i32::from(retry))
            .arg(RETRY_BUDGET)
            .arg(millis(LANE_TTL))
            .arg(tenant.pseudonym())
            .invoke_async(&mut self.connection.clone())
            .await?;
        Ok(match wait {
            0 => Acquisition::Granted,
            wait => Acquisition::Denied(Pause {
                wait: Duration::from_millis(wait),
                reason: PauseReason::parse(&why),
            }),
        })
    }

    /// Reports how a call that was let in ended; `None`: it says nothing of the lane.
    pub async fn release(
        &self,
        lane: &Lane,
        tenant: TenantId,
        call: CallId,
        ended: Option<CallResult>,
        ends_within: Duration,
    ) -> Result<(), QueueError> {
        let strikes = ended.map_or(0, |ended| ended.strikes);
        let hint = ended.and_then(|ended| ended.retry_after);
        // What only people can mend is probed more rarely.
        let patience = if strikes * 2 >= STRIKES_OUT { 6 } else { 1 };
        let (least, most) = self.timing.closed;
        let by_request = ended.is_some_and(|ended| ended.class.may_be_caused_by_request());
        let _changed: i64 = self
            .keys(&RELEASE, lane, tenant)
            .arg(call.0.simple().to_string())
            .arg(FIRST_LIMIT)
            .arg(ended.map_or("", |ended| ended.class.as_str()))
            .arg(strikes)
            .arg(millis(ends_within))
            .arg(CUT_PERCENT)
            .arg(millis(least * patience))
            .arg(millis(most * patience))
            .arg(millis(self.timing.throttled.0))
            .arg(millis(self.timing.throttled.1))
            .arg(millis(hint.unwrap_or_default().min(MAX_RETRY_AFTER)))
            .arg(RETRY_BUDGET)
            .arg(RETRY_CREDIT_PERCENT)
            .arg(STRIKES_OUT)
            .arg(millis(LANE_TTL))
            .arg(tenant.pseudonym())
            .arg(i32::from(by_request))
            .arg(millis(TENANT_TTL))
            .arg(MAX_UNAVAILABLE_TENANTS)
            .invoke_async(&mut self.connection.clone())
            .await?;
        Ok(())
    }

    /// How every lane of the catalogue stands.
    pub async fn states(&self, catalog: &Catalog) -> RedisResult<Vec<LaneState>> {
        let mut lanes: Vec<&Lane> = catalog.models().flat_map(|model| &model.lanes).collect();
        lanes.sort();
        lanes.dedup();
        self.states_of(&lanes).await
    }

    /// How these lanes stand.
    pub async fn states_of(&self, lanes: &[&Lane]) -> RedisResult<Vec<LaneState>> {
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = STATES.arg(FIRST_LIMIT);
        call.arg(MAX_UNAVAILABLE_TENANTS);
        for lane in lanes {
            let hash = self.hash(lane);
            call.key(&hash)
                .key(format!("{hash}:calls"))
                .key(format!("{hash}:closed"));
        }
        let states: Vec<State> = call.invoke_async(&mut self.connection.clone()).await?;
        let state = |(lane, state): (&&Lane, State)| {
            let (limit, in_flight, wait, why, gap, broken, cause, since, corrected, tenants) =
                state;
            if !corrected.is_empty() {
                tracing::warn!(
                    %lane,
                    fields = corrected,
                    "Redis held values for the lane that Platen never writes; they were corrected: who else writes there?"
                );
            }
            LaneState {
                lane: (*lane).clone(),
                limit,
                in_flight,
                gap: Duration::from_millis(gap),
                circuit_open: (broken == 1).then(|| Class::parse(&cause)).flatten(),
                pause: (wait > 0).then(|| Pause {
                    wait: Duration::from_millis(wait),
                    reason: PauseReason::parse(&why),
                }),
                since: moment(since),
                unavailable_for: tenants.into_iter().map(unavailable_for).collect(),
            }
        };
        Ok(lanes.iter().zip(states).map(state).collect())
    }

    fn hash(&self, lane: &Lane) -> String {
        format!("{}:{lane}", self.prefix)
    }

    /// A script with all that is kept of a lane and of a tenant there.
    fn keys<'a>(&self, script: &'a Script, lane: &Lane, tenant: TenantId) -> ScriptInvocation<'a> {
        let (hash, tenant) = (self.hash(lane), tenant.pseudonym());
        let mut call = script.prepare_invoke();
        call.key(&hash)
            .key(format!("{hash}:calls"))
            .key(format!("{hash}:tenant:{tenant}"))
            .key(format!("{hash}:tenant:{tenant}:calls"))
            .key(format!("{hash}:closed"))
            .key(format!("{hash}:strikers"));
        call
    }
}

/// A tenant of whom the script tells.
fn unavailable_for((tenant, wait, why, since): (String, u64, String, i64)) -> UnavailableFor {
    UnavailableFor {
        tenant,
        wait: Duration::from_millis(wait),
        by: Class::parse(&why).unwrap_or(Class::ProviderFault),
        since: moment(since),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time in milliseconds since 1970; 0 is none.
fn moment(millis: i64) -> Option<OffsetDateTime> {
    (millis > 0)
        .then(|| OffsetDateTime::from_unix_timestamp(millis / 1000).ok())
        .flatten()
}

//! The rule of lanes as a pure model, compared with the Lua scripts on a real Redis.
//!
//! Random sequences of calls are played on both. After each step the reply and everything that Redis
//! holds about the lane must equal the model: limit, gap, strikes, circuit breakers, retry budget.
//!
//! The scripts run with the clock of the game: the two lines that read the clock of Redis are
//! replaced. Keys do not expire here, because `PEXPIRE` always uses the clock of Redis; so the model
//! has no rule for a lane, or a tenant's strikes, that nobody has used for hours.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use redis::{Connection, Script};
use tests::servers::TestServers;

const SHARED: &str = include_str!("../../../common/queue/src/lanes/shared.lua");
const ACQUIRE: &str = include_str!("../../../common/queue/src/lanes/acquire.lua");
const RELEASE: &str = include_str!("../../../common/queue/src/lanes/release.lua");
const STATES: &str = include_str!("../../../common/queue/src/lanes/states.lua");
/// The lines of `shared.lua` that read the clock of Redis.
const CLOCK: &str =
    "local time = redis.call('TIME')\nlocal now = time[1] * 1000 + math.floor(time[2] / 1000)";
/// What replaces them: the last argument is the time.
const GAME_CLOCK: &str = "local now = tonumber(table.remove(ARGV))";

const GAMES: u32 = 200;
/// How often that many games are played until everything has happened.
const MOST_ROUNDS: u32 = 20;
/// The field of the lane in the hash of all lanes.
const LANE_NAME: &str = "lane";
/// The first time of a game, in milliseconds since 1970.
const START: f64 = 1.8e12;
const HOUR: f64 = 3_600_000.0;
/// How long keys live and lanes are remembered, in milliseconds: longer than a game takes. Redis
/// accepts records of tenants for two hours at most.
const LANE_TTL: u32 = 36_000_000;
const TENANT_TTL: u32 = 7_200_000;

// The settings are smaller than in production, so that short games reach every limit.
const TENANTS: usize = 3;
const FIRST_LIMIT: f64 = 4.0;
const MAX_LIMIT: f64 = 10.0;
/// How long a lane must be full until it grows.
const GROWTH_INTERVAL: f64 = 1_000.0;
const CUT_PERCENT: f64 = 50.0;
const CALL_TTL: f64 = 30_000.0;
const MAX_BUDGET: f64 = 3.0;
const RETRY_CREDIT_PERCENT: f64 = 25.0;
const STRIKES_OUT: u32 = 8;
const MAX_LISTED: usize = 1;
/// How long a caller waits for a full lane.
const FULL_WAIT: f64 = 200.0;
/// First and longest time in a row: the breaker stays open; the lane pauses.
const OPEN: (f64, f64) = (2_000.0, 20_000.0);
const PAUSE: (f64, f64) = (250.0, 4_000.0);

/// What must have happened in a run, or the games were too tame to prove anything.
const MUST_HAPPEN: &[&str] = &[
    "granted",
    "full",
    "retries",
    "throttled",
    "provider_fault",
    "lane opened",
    "lane probed",
    "lane closed",
    "tenant opened",
    "tenant probed",
    "list was cut",
    "limit was cut to 1",
    "call was forgotten",
    "limit was doubled",
];

/// A step of a game.
#[derive(Clone, Debug)]
enum Step {
    /// A tenant asks to make a call.
    Acquire { tenant: usize, is_retry: bool },
    /// One of the calls that were granted ends.
    Release { call: prop::sample::Index, end: End },
    /// The state of the lane is read.
    Read,
    /// So many milliseconds pass.
    Wait(u32),
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// It says nothing about the lane.
    Unrelated,
    /// With an image.
    Success,
    /// The provider is busy; with a `Retry-After` in milliseconds, or 0.
    Throttled { retry_after: u32 },
    /// A failure with strikes that the request may have caused, or not.
    Failure { strikes: u32, by_request: bool },
}

impl End {
    fn class(self) -> &'static str {
        match self {
            Self::Unrelated => "",
            Self::Success => "ok",
            Self::Throttled { .. } => "throttled",
            Self::Failure { .. } => "provider_fault",
        }
    }

    fn strikes(self) -> u32 {
        match self {
            Self::Failure { strikes, .. } => strikes,
            _ => 0,
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        1 => Just(End::Unrelated),
        4 => Just(End::Success),
        3 => prop_oneof![3 => Just(0), 1 => 1..5_000_u32]
            .prop_map(|retry_after| End::Throttled { retry_after }),
        5 => (1..=STRIKES_OUT, any::<bool>())
            .prop_map(|(strikes, by_request)| End::Failure { strikes, by_request }),
    ];
    let time = prop_oneof![8 => 1..400_u32, 4 => 400..5_000_u32, 1 => 5_000..60_000_u32];
    prop_oneof![
        8 => (0..TENANTS, prop::bool::weighted(0.3))
            .prop_map(|(tenant, is_retry)| Step::Acquire { tenant, is_retry }),
        6 => (any::<prop::sample::Index>(), end)
            .prop_map(|(call, end)| Step::Release { call, end }),
        1 => Just(Step::Read),
        4 => time.prop_map(Step::Wait),
    ]
}

/// Calls in flight: by number, when each stops counting.
type Calls = BTreeMap<u32, f64>;

/// A circuit breaker, of the lane or of one tenant on it. `is_open` also holds while it is half-open.
#[derive(Clone, Debug, Default, PartialEq)]
struct Breaker {
    blocked_until: Option<f64>,
    class: Option<&'static str>,
    is_open: bool,
    probe: Option<u32>,
    since: Option<f64>,
    strikes: Option<u32>,
    openings: Option<u32>,
}

/// A lane.
#[derive(Clone, Debug, Default)]
struct Lane {
    breaker: Breaker,
    /// Before the first change the lane has [`FIRST_LIMIT`].
    limit: Option<f64>,
    cut_at: Option<f64>,
    pauses: Option<u32>,
    took: Option<f64>,
    last_start: Option<f64>,
    budget: Option<f64>,
    budget_at: Option<f64>,
    calls: Calls,
    /// The tenant of each call that was ever granted.
    owners: BTreeMap<u32, usize>,
    tenants: [(Breaker, Calls); TENANTS],
    /// Tenants the lane is unavailable for, and until when.
    listed: BTreeMap<usize, f64>,
    /// Strikes of each tenant that counted against the lane.
    strikers: BTreeMap<usize, u32>,
    seen: BTreeSet<&'static str>,
}

/// A lane at a moment.
struct View {
    limit: f64,
    has_grown: bool,
    in_flight: usize,
    gap: f64,
    gap_left: f64,
    /// How long to wait, and why; `None` where a call may start.
    wait: Option<(f64, &'static str)>,
}

/// A reply: the milliseconds to wait, 0 for a grant, and why.
type Reply = (i64, String);

fn in_flight(calls: &mut Calls, now: f64) -> usize {
    calls.retain(|_, stops_counting_at| *stops_counting_at > now);
    calls.len()
}

/// A number as Redis writes it into JSON: with 14 digits.
fn stored(number: f64) -> f64 {
    format!("{number:.13e}").parse().unwrap()
}

/// What one tenant may have in flight: an eighth of the limit is kept for others.
fn share_of(limit: f64) -> f64 {
    limit.floor() - (limit / 8.0).floor()
}

fn backoff((first, longest): (f64, f64), times: u32) -> f64 {
    (first * 2_f64.powi(times.cast_signed() - 1))
        .min(longest)
        .floor()
}

#[expect(clippy::cast_possible_truncation, reason = "times fit")]
fn reply((wait, why): (f64, &str)) -> Reply {
    (wait as i64, why.to_owned())
}

impl Breaker {
    fn wait(&self, now: f64, calls: &Calls) -> Option<(f64, &'static str)> {
        let why = self.class.unwrap_or_default();
        let blocked_until = self.blocked_until.unwrap_or_default();
        if blocked_until > now {
            return Some(((blocked_until - now).ceil(), why));
        }
        let is_probed = self.probe.is_some_and(|probe| calls.contains_key(&probe));
        (self.is_open && is_probed).then_some((500.0, why))
    }

    /// Opens, or stays open after a failed probe; not again while it is open already.
    fn may_open(&self, now: f64) -> bool {
        self.blocked_until.unwrap_or_default() <= now || !self.is_open
    }
}

impl Lane {
    /// The lane at a moment. Forgets calls whose time is over. `may_grow`: a lane that was full for
    /// a while, and never cut, has twice its limit.
    fn view(&mut self, now: f64, may_grow: bool) -> View {
        let mut limit = self.limit.unwrap_or(FIRST_LIMIT);
        let in_flight = in_flight(&mut self.calls, now);
        let is_full = count(in_flight) >= share_of(limit);
        let waited = self
            .last_start
            .is_some_and(|at| now - at >= GROWTH_INTERVAL);
        let has_grown = may_grow && self.cut_at.is_none() && waited && is_full && limit < MAX_LIMIT;
        if has_grown {
            limit = f64::min(MAX_LIMIT, limit * 2.0);
        }
        let (mut gap, mut gap_left) = (0.0, 0.0);
        if let (Some(_), Some(took)) = (self.cut_at, self.took) {
            gap = f64::min(60_000.0, took / limit * 0.7);
            gap_left = f64::min(gap, self.last_start.unwrap_or_default() + gap - now);
        }
        let wait = self.breaker.wait(now, &self.calls).or_else(|| {
            if count(in_flight) >= limit.floor() {
                return Some((FULL_WAIT, "full"));
            }
            (gap_left > 1_000.0).then(|| (gap_left.ceil(), "full"))
        });
        View {
            limit,
            has_grown,
            in_flight,
            gap,
            gap_left,
            wait,
        }
    }

    /// How long this tenant must wait: its own breaker, and seven eighths of the limit.
    fn tenant_wait(&mut self, now: f64, tenant: usize, limit: f64) -> Option<(f64, &'static str)> {
        let (breaker, calls) = &mut self.tenants[tenant];
        let in_flight = in_flight(calls, now);
        let share = f64::max(1.0, share_of(limit));
        let wait = breaker.wait(now, calls);
        wait.or_else(|| (count(in_flight) >= share).then_some((FULL_WAIT, "full")))
    }

    fn acquire(&mut self, now: f64, call: u32, tenant: usize, is_retry: bool) -> Reply {
        let answer = self.refusal(now, tenant, is_retry);
        if let Some(refusal) = answer {
            self.seen.insert(refusal.1);
            return reply(refusal);
        }
        self.seen.insert("granted");
        if is_retry {
            let budget = self.retry_budget(now);
            (self.budget, self.budget_at) = (Some(stored(budget - 1.0)), Some(now));
        }
        if self.breaker.is_open {
            self.seen.insert("lane probed");
            self.breaker.probe = Some(call);
        }
        if self.tenants[tenant].0.is_open {
            self.seen.insert("tenant probed");
            self.tenants[tenant].0.probe = Some(call);
            self.listed.insert(tenant, now + CALL_TTL);
        }
        // The refusal above saw the same lane.
        let view = self.view(now, true);
        if view.has_grown {
            self.seen.insert("limit was doubled");
            self.limit = Some(view.limit);
        }
        self.owners.insert(call, tenant);
        self.calls.insert(call, now + CALL_TTL);
        self.tenants[tenant].1.insert(call, now + CALL_TTL);
        self.last_start = Some(now);
        (0, String::new())
    }

    fn refusal(&mut self, now: f64, tenant: usize, is_retry: bool) -> Option<(f64, &'static str)> {
        let view = self.view(now, true);
        if view.wait.is_some() {
            return view.wait;
        }
        let wait = self.tenant_wait(now, tenant, view.limit);
        if wait.is_some() {
            return wait;
        }
        // A tenant that helped to open the breaker leaves the probe to others for a second.
        let patience = self.breaker.blocked_until.unwrap_or_default() + 1_000.0 - now;
        if self.breaker.is_open && self.tenants[tenant].0.is_open && patience > 0.0 {
            return Some((patience.ceil(), self.breaker.class.unwrap_or_default()));
        }
        if view.gap_left > 0.0 {
            return Some((view.gap_left.ceil(), "full"));
        }
        (is_retry && self.retry_budget(now) < 1.0).then_some((1_000.0, "retries"))
    }

    fn retry_budget(&self, now: f64) -> f64 {
        let saved_for = now - self.budget_at.unwrap_or(now);
        f64::min(
            MAX_BUDGET,
            self.budget.unwrap_or(MAX_BUDGET) + saved_for / 2_000.0,
        )
    }

    fn release(&mut self, now: f64, call: u32, tenant: usize, end: End) {
        let view = self.view(now, false);
        let stops_counting_at = self.calls.remove(&call);
        self.tenant_wait(now, tenant, view.limit);
        self.tenants[tenant].1.remove(&call);
        if stops_counting_at.is_none() {
            self.seen.insert("call was forgotten");
        }
        let duration = now - (stops_counting_at.unwrap_or(now + CALL_TTL) - CALL_TTL);
        if self.breaker.probe == Some(call) {
            self.breaker.probe = None;
        }
        if self.tenants[tenant].0.probe == Some(call) {
            self.tenants[tenant].0.probe = None;
            self.listed.remove(&tenant);
        }
        match end {
            End::Unrelated => {}
            End::Throttled { retry_after } => {
                self.throttle(now, now - duration, view.limit, f64::from(retry_after));
            }
            End::Success => self.succeed(&view, tenant, stops_counting_at.map(|_| duration)),
            End::Failure {
                strikes,
                by_request,
            } => {
                let against_lane = if by_request {
                    self.strike_tenant(now, tenant, strikes)
                } else {
                    strikes
                };
                let strikes = self.breaker.strikes.unwrap_or(0) + against_lane;
                self.breaker.strikes = Some(strikes);
                if strikes >= STRIKES_OUT && self.breaker.may_open(now) {
                    self.seen.insert("lane opened");
                    self.breaker.is_open = true;
                    let times = self.breaker.openings.unwrap_or(0) + 1;
                    self.breaker.openings = Some(times);
                    self.block(now, backoff(OPEN, times), end.class());
                }
            }
        }
    }

    /// Multiplicative decrease; at the lowest limit a pause instead.
    fn throttle(&mut self, now: f64, began_at: f64, limit: f64, retry_after: f64) {
        if began_at >= self.cut_at.unwrap_or_default() {
            self.limit = Some(stored(f64::max(1.0, limit * CUT_PERCENT / 100.0)));
            self.cut_at = Some(now);
            if limit * CUT_PERCENT < 100.0 {
                self.seen.insert("limit was cut to 1");
                let times = self.pauses.unwrap_or(0) + 1;
                self.pauses = Some(times);
                self.block(now, backoff(PAUSE, times), "throttled");
            }
        }
        if retry_after > 0.0 {
            self.block(now, retry_after, "throttled");
        }
    }

    /// Closes the breaker; additive increase.
    fn succeed(&mut self, view: &View, tenant: usize, duration: Option<f64>) {
        if self.breaker.is_open {
            self.seen.insert("lane closed");
        }
        self.breaker = Breaker {
            blocked_until: self.breaker.blocked_until,
            class: self.breaker.class,
            ..Breaker::default()
        };
        self.pauses = None;
        self.tenants[tenant].0 = Breaker::default();
        self.strikers.clear();
        self.listed.remove(&tenant);
        if let Some(duration) = duration {
            let took = self.took.unwrap_or(duration) * 0.8 + duration * 0.2;
            self.took = Some(stored(took));
        }
        let budget = self.budget.unwrap_or(MAX_BUDGET) + RETRY_CREDIT_PERCENT / 100.0;
        self.budget = Some(stored(f64::min(MAX_BUDGET, budget)));
        if count(view.in_flight) * 2.0 >= view.limit {
            let step = if self.cut_at.is_some() {
                1.0 / view.limit
            } else {
                1.0
            };
            self.limit = Some(stored(f64::min(MAX_LIMIT, view.limit + step)));
        }
    }

    /// Counts strikes against a tenant; returns how many of them count against the lane.
    fn strike_tenant(&mut self, now: f64, tenant: usize, strikes: u32) -> u32 {
        let breaker = &mut self.tenants[tenant].0;
        let own = breaker.strikes.unwrap_or(0) + strikes;
        breaker.strikes = Some(own);
        if own >= STRIKES_OUT && breaker.may_open(now) {
            self.seen.insert("tenant opened");
            let times = breaker.openings.unwrap_or(0) + 1;
            let open_until = now + backoff(OPEN, times);
            breaker.is_open = true;
            breaker.openings = Some(times);
            breaker.blocked_until = Some(open_until);
            breaker.class = Some("provider_fault");
            breaker.since.get_or_insert(now);
            self.listed.insert(tenant, open_until);
            self.listed.retain(|_, until| *until > now);
            while self.listed.len() > MAX_LISTED {
                self.seen.insert("list was cut");
                let order = |a: &(&usize, &f64), b: &(&usize, &f64)| a.1.total_cmp(b.1);
                let first = self.listed.iter().min_by(order).map(|(tenant, _)| *tenant);
                first.and_then(|tenant| self.listed.remove(&tenant));
            }
        }
        let given = self.strikers.get(&tenant).copied().unwrap_or(0);
        let against_lane = strikes.min((STRIKES_OUT / 2).saturating_sub(given));
        if against_lane > 0 {
            self.strikers.insert(tenant, given + against_lane);
        }
        against_lane
    }

    fn block(&mut self, now: f64, time: f64, class: &'static str) {
        let blocked_until = self.breaker.blocked_until.unwrap_or_default();
        self.breaker.blocked_until = Some(f64::max(blocked_until, now + time));
        self.breaker.class = Some(class);
        self.breaker.since.get_or_insert(now);
    }

    /// What `states.lua` returns, without the limit.
    fn state(&mut self, now: f64) -> State {
        let view = self.view(now, true);
        let cause = self.breaker.class.unwrap_or_default();
        let (wait, why) = reply(view.wait.unwrap_or((0.0, cause)));
        let mut listed: Vec<_> = self
            .listed
            .iter()
            .filter(|(_, until)| **until > now)
            .collect();
        listed.sort_by(|a, b| b.1.total_cmp(a.1).then(b.0.cmp(a.0)));
        let tenants = listed.into_iter().take(MAX_LISTED).map(|(tenant, until)| {
            let breaker = &self.tenants[*tenant].0;
            let time = f64::min(2.0 * HOUR, (until - now).ceil());
            let (wait, class) = reply((time, breaker.class.unwrap_or_default()));
            let since = reply((breaker.since.unwrap_or_default(), "")).0;
            (tenant_name(*tenant), wait, class, since)
        });
        State {
            in_flight: i64::try_from(view.in_flight).unwrap(),
            wait,
            why,
            gap: reply((view.gap.ceil(), "")).0,
            is_open: i64::from(self.breaker.is_open),
            cause: cause.to_owned(),
            since: reply((self.breaker.since.unwrap_or_default(), "")).0,
            tenants: tenants.collect(),
        }
    }

    /// What Redis must hold: by key, then by field or member.
    fn contents(&self) -> Contents {
        let member = |call: u32| format!("{}:{}", tenant_name(self.owners[&call]), call_name(call));
        let mut lane = breaker_fields(&self.breaker, member);
        let numbers = [
            ("limit", self.limit),
            ("cut", self.cut_at),
            ("pauses", self.pauses.map(f64::from)),
            ("took", self.took),
            ("last", self.last_start),
            ("budget", self.budget),
            ("budget_at", self.budget_at),
        ];
        lane.extend(numbers.into_iter().filter_map(number));
        let calls = self.calls.iter();
        let calls = calls.map(|(call, until)| (member(*call), Value::Number(*until)));
        let listed = self.listed.iter();
        let strikers = self.strikers.iter();
        let mut contents: Contents = [
            (String::new(), lane),
            (":calls".to_owned(), calls.collect()),
            (
                ":closed".to_owned(),
                listed
                    .map(|(tenant, until)| (tenant_name(*tenant), Value::Number(*until)))
                    .collect(),
            ),
            (
                ":strikers".to_owned(),
                strikers
                    .map(|(tenant, given)| (tenant_name(*tenant), Value::Number(f64::from(*given))))
                    .collect(),
            ),
        ]
        .into();
        for (tenant, (breaker, _)) in self.tenants.iter().enumerate() {
            let key = format!(":tenant:{}", tenant_name(tenant));
            contents.insert(key, breaker_fields(breaker, member));
        }
        contents
    }
}

/// The state of a lane as `states.lua` returns it.
#[derive(Debug, PartialEq)]
struct State {
    in_flight: i64,
    wait: i64,
    why: String,
    gap: i64,
    is_open: i64,
    cause: String,
    since: i64,
    tenants: Vec<(String, i64, String, i64)>,
}

/// A value in Redis.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(f64),
    Text(String),
}

type Contents = BTreeMap<String, BTreeMap<String, Value>>;

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap())
}

fn call_name(call: u32) -> String {
    format!("call-{call}")
}

fn tenant_name(tenant: usize) -> String {
    format!("tenant-{tenant}")
}

fn number((name, value): (&str, Option<f64>)) -> Option<(String, Value)> {
    Some((name.to_owned(), Value::Number(value?)))
}

/// The fields of a breaker. `member` names a call as the sorted set of calls does.
fn breaker_fields(breaker: &Breaker, member: impl Fn(u32) -> String) -> BTreeMap<String, Value> {
    let numbers = [
        ("until", breaker.blocked_until),
        ("broken", breaker.is_open.then_some(1.0)),
        ("since", breaker.since),
        ("strikes", breaker.strikes.map(f64::from)),
        ("openings", breaker.openings.map(f64::from)),
    ];
    let texts = [
        ("why", breaker.class.map(str::to_owned)),
        ("probe", breaker.probe.map(member)),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(name, text)| Some((name.to_owned(), text?)));
    let texts = texts.map(|(name, text)| (name, Value::Text(text)));
    numbers
        .into_iter()
        .filter_map(number)
        .chain(texts)
        .collect()
}

/// The scripts on a real Redis.
struct Redis {
    connection: Connection,
    acquire: Script,
    release: Script,
    states: Script,
    lane: String,
}

impl Redis {
    fn connect(url: &str) -> Self {
        assert!(
            SHARED.contains(CLOCK),
            "shared.lua reads the clock in another way"
        );
        let shared = SHARED.replace(CLOCK, GAME_CLOCK);
        Self {
            connection: redis::Client::open(url).unwrap().get_connection().unwrap(),
            acquire: Script::new(&format!("{shared}{ACQUIRE}")),
            release: Script::new(&format!("{shared}{RELEASE}")),
            states: Script::new(&format!("{shared}{STATES}")),
            lane: format!("lanes-model-{}", std::process::id()),
        }
    }

    /// All keys of the lane, in the order of [`Contents`]. The first one is the hash of all lanes.
    fn keys(&self) -> Vec<String> {
        let suffixes = Lane::default().contents().into_keys();
        suffixes
            .map(|suffix| format!("{}{suffix}", self.lane))
            .collect()
    }

    fn clear(&mut self) {
        let () = redis::cmd("DEL")
            .arg(self.keys())
            .query(&mut self.connection)
            .unwrap();
    }

    fn acquire(&mut self, now: f64, call: u32, tenant: usize, is_retry: bool) -> Reply {
        let script = self.acquire.clone();
        self.prepare(&script, tenant, call)
            .arg(i32::from(is_retry))
            .arg(MAX_BUDGET)
            .arg(now)
            .invoke(&mut self.connection)
            .unwrap()
    }

    fn release(&mut self, now: f64, call: u32, tenant: usize, end: End) {
        let script = self.release.clone();
        let (retry_after, by_request) = match end {
            End::Throttled { retry_after } => (retry_after, false),
            End::Failure { by_request, .. } => (0, by_request),
            End::Unrelated | End::Success => (0, false),
        };
        let _done: i64 = self
            .prepare(&script, tenant, call)
            .arg(end.class())
            .arg(end.strikes())
            .arg(i32::from(by_request))
            .arg(retry_after)
            .arg(CUT_PERCENT)
            .arg(OPEN.0)
            .arg(OPEN.1)
            .arg(PAUSE.0)
            .arg(PAUSE.1)
            .arg(MAX_BUDGET)
            .arg(RETRY_CREDIT_PERCENT)
            .arg(STRIKES_OUT)
            .arg(TENANT_TTL)
            .arg(MAX_LISTED)
            .arg(now)
            .invoke(&mut self.connection)
            .unwrap();
    }

    /// A script with the keys and arguments that a call has.
    fn prepare<'a>(
        &self,
        script: &'a Script,
        tenant: usize,
        call: u32,
    ) -> redis::ScriptInvocation<'a> {
        let (lane, tenant) = (&self.lane, tenant_name(tenant));
        let mut invocation = script.key(lane);
        invocation
            .key(format!("{lane}:calls"))
            .key(format!("{lane}:tenant:{tenant}"))
            .key(format!("{lane}:closed"))
            .key(format!("{lane}:strikers"))
            .arg(LANE_NAME)
            .arg(FIRST_LIMIT)
            .arg(MAX_LIMIT)
            .arg(LANE_TTL)
            .arg(tenant)
            .arg(call_name(call))
            .arg(CALL_TTL);
        invocation
    }

    /// The state of the lane, and its limit, which comes as text with 14 digits.
    fn state(&mut self, now: f64) -> (f64, State) {
        type Row = (
            f64,
            i64,
            i64,
            String,
            i64,
            i64,
            String,
            i64,
            String,
            Vec<(String, i64, String, i64)>,
        );
        let rows: Vec<Row> = self
            .states
            .key(&self.lane)
            .key(format!("{}:calls", self.lane))
            .key(format!("{}:closed", self.lane))
            .arg(LANE_TTL)
            .arg(MAX_LISTED)
            .arg(LANE_NAME)
            .arg(FIRST_LIMIT)
            .arg(MAX_LIMIT)
            .arg(format!("{}:tenant:", self.lane))
            .arg(now)
            .invoke(&mut self.connection)
            .unwrap();
        let [row] = <[Row; 1]>::try_from(rows).unwrap();
        let (limit, in_flight, wait, why, gap, is_open, cause, since, corrected, tenants) = row;
        assert_eq!(
            corrected, "",
            "a script wrote a value that it does not accept"
        );
        let state = State {
            in_flight,
            wait,
            why,
            gap,
            is_open,
            cause,
            since,
            tenants,
        };
        (limit, state)
    }

    fn contents(&mut self) -> Contents {
        let value = |text: String| match text.parse() {
            Ok(number) => Value::Number(number),
            Err(_) => Value::Text(text),
        };
        let mut contents = Contents::new();
        for key in self.keys() {
            let suffix = key[self.lane.len()..].to_owned();
            let mut command = match suffix.as_str() {
                "" => redis::cmd("HGET"),
                ":strikers" => redis::cmd("HGETALL"),
                ":calls" | ":closed" => redis::cmd("ZRANGE"),
                _ => redis::cmd("GET"),
            };
            command.arg(&key);
            let fields = match suffix.as_str() {
                "" => json_fields(command.arg(LANE_NAME).query(&mut self.connection).unwrap()),
                ":strikers" | ":calls" | ":closed" => {
                    if suffix != ":strikers" {
                        command.arg(0).arg(-1).arg("WITHSCORES");
                    }
                    let pairs: Vec<(String, String)> = command.query(&mut self.connection).unwrap();
                    pairs
                        .into_iter()
                        .map(|(name, text)| (name, value(text)))
                        .collect()
                }
                _ => json_fields(command.query(&mut self.connection).unwrap()),
            };
            contents.insert(suffix, fields);
        }
        contents
    }
}

/// The fields of a JSON object that the model knows. The others only say when Redis must count calls
/// or read records again.
fn json_fields(text: Option<String>) -> BTreeMap<String, Value> {
    let object: serde_json::Map<String, serde_json::Value> = text
        .map_or_else(Default::default, |text| {
            serde_json::from_str(&text).unwrap()
        });
    let own = ["in_flight", "recount_at", "keep_at", "struck"];
    let known = object
        .into_iter()
        .filter(|(name, _)| !own.contains(&name.as_str()));
    known
        .map(|(name, value)| {
            let value = match value {
                serde_json::Value::Bool(true) => Value::Number(1.0),
                serde_json::Value::Number(number) => Value::Number(number.as_f64().unwrap()),
                serde_json::Value::String(text) => Value::Text(text),
                other => panic!("{name} is {other}"),
            };
            (name, value)
        })
        .collect()
}

/// Plays a game on both. An error says where they differ.
fn play(steps: &[Step], redis: &mut Redis) -> Result<BTreeSet<&'static str>, String> {
    redis.clear();
    let (mut model, mut now) = (Lane::default(), START);
    let (mut next_call, mut granted) = (0, Vec::new());
    for (number, step) in steps.iter().enumerate() {
        let differs = |what: String| Err(format!("step {number}, {step:?}: {what}"));
        match step {
            Step::Acquire { tenant, is_retry } => {
                let expected = model.acquire(now, next_call, *tenant, *is_retry);
                let answer = redis.acquire(now, next_call, *tenant, *is_retry);
                if answer != expected {
                    return differs(format!("Redis says {answer:?}, the model {expected:?}"));
                }
                if answer.0 == 0 {
                    granted.push((next_call, *tenant));
                }
                next_call += 1;
            }
            Step::Release { call, end } if !granted.is_empty() => {
                let (call, tenant) = granted.swap_remove(call.index(granted.len()));
                model.release(now, call, tenant, *end);
                redis.release(now, call, tenant, *end);
            }
            Step::Release { .. } => {}
            Step::Read => {
                let expected = model.state(now);
                let (limit, state) = redis.state(now);
                if state != expected || (limit - model.view(now, true).limit).abs() > 1e-9 {
                    return differs(format!("Redis says {state:?}, the model {expected:?}"));
                }
            }
            Step::Wait(millis) => now += f64::from(*millis),
        }
        let (real, expected) = (redis.contents(), model.contents());
        for (key, expected) in expected {
            if real[&key] != expected {
                let real = &real[&key];
                return differs(format!("{key:?} holds {real:?}, the model {expected:?}"));
            }
        }
    }
    Ok(model.seen)
}

/// What must happen in some game and did not.
fn missing(seen: &BTreeSet<&'static str>) -> Vec<&'static str> {
    let must_happen = MUST_HAPPEN.iter().copied();
    must_happen.filter(|what| !seen.contains(what)).collect()
}

#[test]
fn the_scripts_of_lanes_follow_the_model() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let servers = runtime.block_on(TestServers::get());
    let redis = RefCell::new(Redis::connect(&servers.redis_url));
    let seen = RefCell::new(BTreeSet::new());
    // Rare things need luck: the games are played again until all have happened.
    for _ in 0..MOST_ROUNDS {
        let mut runner = TestRunner::new(Config {
            cases: GAMES,
            failure_persistence: None,
            ..Config::default()
        });
        let played = runner.run(&prop::collection::vec(step(), 1..120), |steps| {
            let happened = play(&steps, &mut redis.borrow_mut()).map_err(TestCaseError::fail)?;
            seen.borrow_mut().extend(happened);
            Ok(())
        });
        redis.borrow_mut().clear();
        if let Err(TestError::Fail(why, steps)) = played {
            panic!("{why}\n{steps:#?}");
        }
        played.unwrap();
        if missing(&seen.borrow()).is_empty() {
            break;
        }
    }
    let missing = missing(&seen.borrow());
    assert!(missing.is_empty(), "never happened: {missing:?}");
}

#[test]
fn one_tenant_alone_cannot_open_the_breaker_for_all() {
    let failures = prop::collection::vec((1..=STRIKES_OUT, 1..30_000_u32), 1..100);
    proptest!(Config { failure_persistence: None, ..Config::default() }, |(failures in failures)| {
        let (mut lane, mut now) = (Lane::default(), START);
        for (call, (strikes, wait)) in (0..).zip(failures) {
            lane.acquire(now, call, 0, false);
            now += f64::from(wait);
            lane.release(now, call, 0, End::Failure { strikes, by_request: true });
            prop_assert!(!lane.breaker.is_open);
        }
    });
}

#[test]
fn the_limit_stays_within_its_bounds() {
    let steps = prop::collection::vec(step(), 1..300);
    proptest!(Config { failure_persistence: None, ..Config::default() }, |(steps in steps)| {
        let (mut lane, mut now, mut granted) = (Lane::default(), START, Vec::new());
        for (call, step) in (0..).zip(steps) {
            match step {
                Step::Acquire { tenant, is_retry } => {
                    if lane.acquire(now, call, tenant, is_retry).0 == 0 {
                        granted.push((call, tenant));
                    }
                }
                Step::Release { call, end } if !granted.is_empty() => {
                    let (call, tenant) = granted.swap_remove(call.index(granted.len()));
                    lane.release(now, call, tenant, end);
                }
                Step::Release { .. } | Step::Read => {}
                Step::Wait(millis) => now += f64::from(millis),
            }
            let limit = lane.limit.unwrap_or(FIRST_LIMIT);
            prop_assert!((1.0..=MAX_LIMIT).contains(&limit), "{limit}");
            prop_assert!(count(lane.calls.len()) <= MAX_LIMIT);
        }
    });
}

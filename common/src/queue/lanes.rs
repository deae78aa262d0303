//! Lanes: what all workers together know about each place a model is called at. Shared in Redis, and may vanish:
//! without it every lane is open, and each job's own delays are all that holds calls back.
//!
//! A lane lets in as many calls at once as its provider bears: one more whenever the limit was used and nothing was
//! refused, a seventh fewer when the provider says that it is busy (additive increase, multiplicative decrease; of
//! calls that were made before the last cut, none cuts again). From then on calls are let in evenly, not in bursts: a
//! provider that counts calls by the second refuses what comes at once after a pause. At its least the lane pauses
//! instead, each time longer; a provider's own hint is kept to. Strikes in a row close the lane; when the pause is
//! over, one call probes whether it opens again. Retries live on a budget that successes fill: an outage is not made
//! worse.

use std::collections::HashMap;
use std::time::Duration;

use redis::{RedisResult, Script};
use time::OffsetDateTime;

use super::connection::SharedConnection;
use super::{Ring, RingError};
use crate::catalog::{Catalog, Lane};
use crate::config::LaneTiming;
use crate::id::CallId;
use crate::job::{Open, Room};
use crate::outcome::{Class, Failure, STRIKES_OUT};

/// Calls a lane lets in at once before it has learned anything.
const FIRST_LIMIT: u32 = 32;
/// What is left of the limit after a cut, in hundredths.
const CUT: u32 = 85;
/// Retries a lane allows out of nothing, and what one success adds, in hundredths.
const BUDGET: u32 = 20;
const EARNED: u32 = 25;
/// A provider's hint is kept to, but not for longer than this.
const LONGEST_HINT: Duration = Duration::from_mins(2);
/// Room where nothing is known that holds jobs back.
const ANY: i64 = 1_000_000;
/// What lanes know is forgotten when nobody has called for so long.
const FORGOTTEN: Duration = Duration::from_hours(6);

/// The lanes of one Platen.
#[derive(Clone)]
pub struct Lanes {
    connection: SharedConnection,
    prefix: String,
    timing: LaneTiming,
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Open,
    Closed(Pause),
}

/// Why a lane lets nobody in, and for how long at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    pub wait: Duration,
    pub why: Why,
}

/// What keeps a lane from letting calls in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// As many calls as it bears are in flight.
    Full,
    /// Too many of its calls were retries.
    Retries,
    /// Its answers: [`Class::Throttled`] pauses it, strikes close it.
    Answers(Class),
}

/// How a call ended, as far as it concerns its lane.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub class: Class,
    pub strikes: u32,
    /// The provider asked to wait this long.
    pub retry_after: Option<Duration>,
}

impl Ended {
    /// With a picture.
    pub const WELL: Self = Self {
        class: Class::Ok,
        strikes: 0,
        retry_after: None,
    };
}

impl From<&Failure> for Ended {
    fn from(failure: &Failure) -> Self {
        Self {
            class: failure.class,
            strikes: failure.strikes(),
            retry_after: failure.retry_after,
        }
    }
}

/// What the script tells of a lane: limit, calls in flight, wait, why, gap, whether it is
/// broken, by what, and since when it has let nobody in.
type State = (f64, i64, u64, String, u64, u8, String, i64);

/// How a lane stands.
#[derive(Clone, Debug)]
pub struct LaneState {
    pub lane: Lane,
    /// Calls it lets in at once.
    pub limit: f64,
    pub in_flight: i64,
    /// Time between two calls that are let in, where they are let in evenly.
    pub gap: Duration,
    /// What closed it, where strikes have; once its pause is over, one call may probe it.
    pub broken: Option<Class>,
    /// Why it lets nobody in, where it does not.
    pub pause: Option<Pause>,
    /// Since when its provider's answers have closed or paused it; a success ends that.
    pub since: Option<OffsetDateTime>,
}

impl Why {
    fn parse(word: &str) -> Self {
        match word {
            "full" => Self::Full,
            "retries" => Self::Retries,
            class => Self::Answers(Class::parse(class).unwrap_or(Class::ProviderFault)),
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Retries => "retries",
            Self::Answers(class) => class.as_str(),
        }
    }
}

/// Shared by the scripts: the clock, what the hash holds, and why nobody is let in.
const LOOK: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function look(hash, calls, first_limit)
  redis.call('ZREMRANGEBYSCORE', calls, '-inf', now)
  local known = redis.call('HMGET', hash, 'limit', 'until', 'why', 'broken', 'probe', 'cut', 'took', 'last', 'since')
  local lane = {
    limit = tonumber(known[1] or first_limit), until_ = tonumber(known[2] or 0), why = known[3] or '', cause = known[3] or '',
    broken = known[4] == '1', since = known[9] or '0', flying = redis.call('ZCARD', calls), gap = 0, early = 0 }
  -- A clock that went back must not keep a lane closed for the whole jump.
  if lane.until_ > now + 3600000 then lane.until_ = now end
  if known[6] and known[7] then
    lane.gap = known[7] / lane.limit * 0.7
    lane.early = math.min(lane.gap, tonumber(known[8] or 0) + lane.gap - now)
  end
  local probing = lane.broken and known[5] and redis.call('ZSCORE', calls, known[5])
  if lane.until_ > now then lane.wait = lane.until_ - now
  elseif probing then lane.wait = 500
  elseif lane.flying >= math.floor(lane.limit) then lane.wait, lane.why = 50, 'full'
  elseif lane.early > 1000 then lane.wait, lane.why = math.ceil(lane.early), 'full'
  else lane.wait = 0 end
  return lane
end
";

impl Lanes {
    pub fn new(ring: &Ring, timing: LaneTiming) -> Self {
        Self {
            connection: ring.connection.clone(),
            prefix: format!("{}:lane", ring.keys.name),
            timing,
        }
    }

    /// Lets a call in, or says for how long not. `ends_within` bounds how long it counts when nobody reports its end.
    pub async fn enter(
        &self,
        lane: &Lane,
        call: CallId,
        ends_within: Duration,
        retry: bool,
    ) -> Result<Entry, RingError> {
        let script = Script::new(&format!(
            r"{LOOK}
            local lane = look(KEYS[1], KEYS[2], ARGV[3])
            if lane.wait > 0 then return {{lane.wait, lane.why}} end
            if lane.early > 0 then return {{math.ceil(lane.early), 'full'}} end
            if ARGV[4] == '1' then
              local saved = redis.call('HMGET', KEYS[1], 'budget', 'budget_at')
              local budget = math.min(tonumber(ARGV[5]), tonumber(saved[1] or ARGV[5]) + (now - tonumber(saved[2] or now)) / 2000)
              if budget < 1 then return {{1000, 'retries'}} end
              redis.call('HSET', KEYS[1], 'budget', budget - 1, 'budget_at', now)
            end
            if lane.broken then redis.call('HSET', KEYS[1], 'probe', ARGV[1]) end
            redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
            redis.call('HSET', KEYS[1], 'last', now)
            redis.call('PEXPIRE', KEYS[1], ARGV[6])
            redis.call('PEXPIRE', KEYS[2], ARGV[6])
            return {{0, ''}}"
        ));
        let (wait, why): (u64, String) = script
            .key(self.hash(lane))
            .key(self.calls(lane))
            .arg(call.0.simple().to_string())
            .arg(millis(ends_within))
            .arg(FIRST_LIMIT)
            .arg(i32::from(retry))
            .arg(BUDGET)
            .arg(millis(FORGOTTEN))
            .invoke_async(&mut self.connection.clone())
            .await?;
        Ok(match wait {
            0 => Entry::Open,
            wait => Entry::Closed(Pause {
                wait: Duration::from_millis(wait),
                why: Why::parse(&why),
            }),
        })
    }

    /// Reports how a call that was let in ended; `None`: it says nothing of the lane.
    pub async fn leave(
        &self,
        lane: &Lane,
        call: CallId,
        ended: Option<Ended>,
        ends_within: Duration,
    ) -> Result<(), RingError> {
        let script = Script::new(&format!(
            r"{LOOK}
            local lane = look(KEYS[1], KEYS[2], ARGV[2])
            local ends = redis.call('ZSCORE', KEYS[2], ARGV[1])
            redis.call('ZREM', KEYS[2], ARGV[1])
            local class, strikes = ARGV[3], tonumber(ARGV[4])
            local began = tonumber(ends or now + ARGV[5]) - ARGV[5]
            if redis.call('HGET', KEYS[1], 'probe') == ARGV[1] then redis.call('HDEL', KEYS[1], 'probe') end
            if class == '' then return 1 end
            local function pause(word, least, most, count)
              local times = redis.call('HINCRBY', KEYS[1], count, 1)
              local length = math.min(tonumber(most), tonumber(least) * 2 ^ (times - 1))
              lane.until_ = math.max(lane.until_, now + math.floor(length))
              redis.call('HSET', KEYS[1], 'until', lane.until_, 'why', word)
              redis.call('HSETNX', KEYS[1], 'since', now)
            end
            if class == 'throttled' then
              local cut = tonumber(redis.call('HGET', KEYS[1], 'cut') or 0)
              if began >= cut then
                redis.call('HSET', KEYS[1], 'limit', math.max(1, lane.limit * ARGV[6] / 100), 'cut', now)
                if lane.limit * ARGV[6] < 100 then pause(class, ARGV[9], ARGV[10], 'pauses') end
              end
              local hint = tonumber(ARGV[11])
              if hint > 0 then
                redis.call('HSET', KEYS[1], 'until', math.max(lane.until_, now + hint), 'why', class)
                redis.call('HSETNX', KEYS[1], 'since', now)
              end
            elseif strikes == 0 then
              redis.call('HDEL', KEYS[1], 'strikes', 'broken', 'probe', 'openings', 'pauses', 'since')
              if ends then
                local took = tonumber(redis.call('HGET', KEYS[1], 'took') or now - began)
                redis.call('HSET', KEYS[1], 'took', took * 0.8 + (now - began) * 0.2)
              end
              local budget = tonumber(redis.call('HGET', KEYS[1], 'budget') or ARGV[12])
              redis.call('HSET', KEYS[1], 'budget', math.min(tonumber(ARGV[12]), budget + ARGV[13] / 100))
              if lane.flying * 2 >= lane.limit then
                local step = 1
                if redis.call('HEXISTS', KEYS[1], 'cut') == 1 then step = 1 / lane.limit end
                redis.call('HSET', KEYS[1], 'limit', math.min(2000, lane.limit + step))
              end
            else
              local struck = redis.call('HINCRBY', KEYS[1], 'strikes', strikes)
              if struck >= tonumber(ARGV[14]) and (lane.until_ <= now or not lane.broken) then
                redis.call('HSET', KEYS[1], 'broken', 1)
                pause(class, ARGV[7], ARGV[8], 'openings')
              end
            end
            redis.call('PEXPIRE', KEYS[1], ARGV[15])
            return 1"
        ));
        let strikes = ended.map_or(0, |ended| ended.strikes);
        let hint = ended.and_then(|ended| ended.retry_after);
        // What only people can mend is probed more rarely.
        let patience = if strikes * 2 >= STRIKES_OUT { 6 } else { 1 };
        let (least, most) = self.timing.closed;
        let _changed: i64 = script
            .key(self.hash(lane))
            .key(self.calls(lane))
            .arg(call.0.simple().to_string())
            .arg(FIRST_LIMIT)
            .arg(ended.map_or("", |ended| ended.class.as_str()))
            .arg(strikes)
            .arg(millis(ends_within))
            .arg(CUT)
            .arg(millis(least * patience))
            .arg(millis(most * patience))
            .arg(millis(self.timing.throttled.0))
            .arg(millis(self.timing.throttled.1))
            .arg(millis(hint.unwrap_or_default().min(LONGEST_HINT)))
            .arg(BUDGET)
            .arg(EARNED)
            .arg(STRIKES_OUT)
            .arg(millis(FORGOTTEN))
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
        let script = Script::new(&format!(
            r"{LOOK}
            local states = {{}}
            for i = 1, #KEYS, 2 do
              local lane = look(KEYS[i], KEYS[i + 1], ARGV[1])
              table.insert(states, {{tostring(lane.limit), lane.flying, lane.wait, lane.why, math.ceil(lane.gap), lane.broken and 1 or 0, lane.cause, tonumber(lane.since)}})
            end
            return states"
        ));
        let mut call = script.arg(FIRST_LIMIT);
        for lane in lanes {
            call.key(self.hash(lane)).key(self.calls(lane));
        }
        let states: Vec<State> = call.invoke_async(&mut self.connection.clone()).await?;
        let state =
            |(lane, (limit, in_flight, wait, why, gap, broken, cause, since)): (&&Lane, State)| {
                LaneState {
                    lane: (*lane).clone(),
                    limit,
                    in_flight,
                    gap: Duration::from_millis(gap),
                    broken: (broken == 1).then(|| Class::parse(&cause)).flatten(),
                    pause: (wait > 0).then(|| Pause {
                        wait: Duration::from_millis(wait),
                        why: Why::parse(&why),
                    }),
                    since: (since > 0)
                        .then(|| OffsetDateTime::from_unix_timestamp(since / 1000).ok())
                        .flatten(),
                }
            };
        Ok(lanes.iter().zip(states).map(state).collect())
    }

    fn hash(&self, lane: &Lane) -> String {
        format!("{}:{lane}", self.prefix)
    }

    fn calls(&self, lane: &Lane) -> String {
        format!("{}:{lane}:calls", self.prefix)
    }
}

/// How many jobs of each model may be started. One that its provider no longer has lets jobs through: they are to end
/// at once, not to wait.
pub fn open(catalog: &Catalog, states: &[LaneState]) -> Open {
    let states: HashMap<&Lane, &LaneState> =
        states.iter().map(|state| (&state.lane, state)).collect();
    let retired = |state: &&LaneState| {
        let why = state.pause.map(|pause| pause.why);
        why == Some(Why::Answers(Class::ModelRetired))
    };
    let room = |lanes: &[Lane]| {
        let states = lanes.iter().map(|lane| states.get(lane).copied());
        match states.collect::<Option<Vec<&LaneState>>>() {
            Some(states) if !states.iter().all(retired) => {
                states.into_iter().map(LaneState::room).sum()
            }
            _ => ANY,
        }
    };
    Open::new(catalog.models().map(|model| Room {
        model: model.id.clone(),
        anywhere: room(model.lanes(true)),
        at_home: room(model.lanes(false)),
    }))
}

impl LaneState {
    /// What keeps it closed, or paused.
    pub fn closed_by(&self) -> Option<Class> {
        match self.pause.map(|pause| pause.why) {
            Some(Why::Answers(class)) => Some(class),
            _ => self.broken,
        }
    }

    /// Calls it would let in within the next second, and a few to wait at the door: what ends is followed at once.
    fn room(&self) -> i64 {
        if self.pause.is_some() {
            return 0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 2,000")]
        let limit = self.limit as i64;
        let free = (limit - self.in_flight).max(0) + limit / 8 + 1;
        let a_second = 1_000 / i64::try_from(self.gap.as_millis()).unwrap_or(1).max(1) + 1;
        free.min(a_second)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

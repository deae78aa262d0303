-- Shared by all lane scripts: the clock, the check of stored values, and the state of a lane.
-- Rust puts this text in front of each script, so its locals are visible there.
--
-- Redis runs a script alone, so each script is one atomic step. All times are milliseconds since
-- 1970 on the clock of Redis: the clocks of workers differ.
--
-- Keys of one lane:
--   <lane>                        hash, the lane itself (fields below)
--   <lane>:calls                  sorted set of calls in flight, scored by when they stop counting
--   <lane>:tenant:<t>             hash, the lane as tenant t sees it: until, why, broken, probe,
--                                 since, strikes, openings
--   <lane>:tenant:<t>:calls       as <lane>:calls, of this tenant only
--   <lane>:closed                 sorted set of tenants the lane is unavailable for, scored by until when
--   <lane>:strikers               hash, tenant -> strikes counted against the lane
--
-- Fields of the lane's hash:
--   limit      calls allowed in flight at once; fractions are kept, only whole calls are granted
--   until      no call starts before this time; why: the outcome class that set it
--   since      when the lane became unavailable; absent while it is available
--   broken     '1' while the circuit breaker is open or half-open; probe: the call that probes it
--   strikes    strikes since the last success; openings: times in a row the breaker opened
--   pauses     times in a row the lane paused at its lowest limit
--   cut        when the limit was last cut; absent before the first cut
--   took       moving average of how long a call takes; last: when the last call started
--   budget     retries that may start; budget_at: when the last one started
--   corrected  names of fields whose stored value no script writes
--
-- Whoever can write to Redis can plant any value. A value that no script would write is replaced: a
-- limit by the nearest allowed one, anything else as if it were absent. The name of the field goes
-- into `corrected`, so that a worker logs it.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local HOUR = 3600000

-- Reads fields of a hash. A key that is not a hash is deleted first.
local function read_fields(key, ...)
  local stored = redis.pcall('HMGET', key, ...)
  if not stored.err then return stored end
  redis.call('DEL', key)
  redis.call('HSET', key, 'corrected', 'type')
  return redis.call('HMGET', key, ...)
end

-- Reads a number that must be within `min` and `max`; corrects the stored field where it is not.
local function read_number(key, field, text, default, min, max)
  if not text then return default end
  local value = tonumber(text)
  -- Every comparison with NaN is false, so NaN does not return here.
  if value and value >= min and value <= max then return value end
  -- A limit is set to its nearest bound, because the default could be far from the limit that suits
  -- the provider.
  if field ~= 'limit' or not value or value ~= value then value = default
  else value = math.max(min, math.min(max, value)) end
  if value then redis.call('HSET', key, field, value) else redis.call('HDEL', key, field) end
  local corrected = redis.call('HGET', key, 'corrected')
  if not corrected then redis.call('HSET', key, 'corrected', field)
  -- The text is bounded, so that values that are planted again and again do not let the hash grow.
  elseif #corrected < 200 then redis.call('HSET', key, 'corrected', corrected .. ' ' .. field) end
  return value
end

-- Reads a whole number from 0 to `max`.
local function read_count(key, field, text, max)
  return math.floor(read_number(key, field, text, 0, 0, max))
end

-- Deletes a key that is not a sorted set.
local function ensure_sorted_set(key)
  local card = redis.pcall('ZCARD', key)
  if type(card) == 'table' and card.err then redis.call('DEL', key) end
end

-- Counts the calls in flight, after removing those that no longer count.
local function count_in_flight(calls_key)
  ensure_sorted_set(calls_key)
  -- Nobody reported the end of these calls in time, so their worker died.
  redis.call('ZREMRANGEBYSCORE', calls_key, '-inf', now)
  -- No model may take two hours, so the value was planted, or the clock was set back.
  redis.call('ZREMRANGEBYSCORE', calls_key, '(' .. now + 2 * HOUR, '+inf')
  return redis.call('ZCARD', calls_key)
end

-- Loads a lane. `wait` is 0 where a call may start, else the milliseconds until asking again makes
-- sense; `why` says what it waits for, and `cause` what opened the circuit breaker.
local function load_lane(lane_key, calls_key, first_limit)
  local stored = read_fields(lane_key, 'limit', 'until', 'why', 'broken', 'probe', 'cut', 'took', 'last', 'since')
  local lane = {
    limit = read_number(lane_key, 'limit', stored[1], tonumber(first_limit), 1, 2000),
    blocked_until = read_number(lane_key, 'until', stored[2], 0, 0, 1e15),
    why = stored[3] or '', cause = stored[3] or '', circuit_open = stored[4] == '1',
    cut_at = read_number(lane_key, 'cut', stored[6], nil, 0, now + HOUR),
    took = read_number(lane_key, 'took', stored[7], nil, 0, HOUR),
    since = read_count(lane_key, 'since', stored[9], now + HOUR),
    in_flight = count_in_flight(calls_key), gap = 0, gap_left = 0 }
  -- A clock that was set back must not keep a lane unavailable for the whole jump.
  if lane.blocked_until > now + HOUR then lane.blocked_until = now end
  -- Calls are spread evenly only after the first cut: a provider that counts calls per second
  -- refuses a burst. The factor 0.7 lets calls start a little faster than they end, so that the
  -- limit can be reached.
  if lane.cut_at and lane.took then
    lane.gap = math.min(60000, lane.took / lane.limit * 0.7)
    local last = read_number(lane_key, 'last', stored[8], 0, 0, now + 60000)
    lane.gap_left = math.min(lane.gap, last + lane.gap - now)
  end
  -- If the worker of a probe died, its call is removed from the sorted set after a time, and
  -- another call may probe.
  local is_probed = lane.circuit_open and stored[5] and redis.call('ZSCORE', calls_key, stored[5])
  -- Paused, or the circuit breaker is open.
  if lane.blocked_until > now then lane.wait = math.ceil(lane.blocked_until - now)
  -- Half-open: one call decides for all others.
  elseif is_probed then lane.wait = 500
  -- Full: a call may end at any moment.
  elseif lane.in_flight >= math.floor(lane.limit) then lane.wait, lane.why = 50, 'full'
  -- The gap to the last call is long. A short gap is checked only by `acquire`.
  elseif lane.gap_left > 1000 then lane.wait, lane.why = math.ceil(lane.gap_left), 'full'
  else lane.wait = 0 end
  return lane
end

-- Loads the lane as one tenant sees it: unavailable because of the tenant's own calls, or full with
-- them. An eighth of the lane's limit is kept for other tenants.
local function load_tenant(tenant_key, calls_key, lane)
  local stored = read_fields(tenant_key, 'until', 'why', 'broken', 'probe', 'strikes', 'openings')
  local tenant = {
    blocked_until = read_number(tenant_key, 'until', stored[1], 0, 0, 1e15),
    why = stored[2] or '', circuit_open = stored[3] == '1',
    strikes = read_count(tenant_key, 'strikes', stored[5], 1000),
    openings = read_count(tenant_key, 'openings', stored[6], 60),
    in_flight = count_in_flight(calls_key) }
  -- As for the lane, a clock that was set back must not block the tenant for long.
  if tenant.blocked_until > now + HOUR then tenant.blocked_until = now end
  local share = math.max(1, math.floor(lane.limit) - math.floor(lane.limit / 8))
  -- The circuit breaker is open for this tenant.
  if tenant.blocked_until > now then tenant.wait = math.ceil(tenant.blocked_until - now)
  -- Half-open: one of the tenant's calls probes.
  elseif tenant.circuit_open and stored[4] and redis.call('ZSCORE', calls_key, stored[4]) then tenant.wait = 500
  -- The tenant has used its share of the lane.
  elseif tenant.in_flight >= share then tenant.wait, tenant.why = 50, 'full'
  else tenant.wait = 0 end
  return tenant
end

-- Reports the end of a call: removes it from its lane, and adapts the lane to how it ended.
local lane_key, calls_key, tenant_key, tenant_calls_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local closed_key, strikers_key = KEYS[5], KEYS[6]
local call_id, first_limit = ARGV[1], ARGV[2]
local class = ARGV[3] -- outcome class; empty where the end says nothing about the lane
local strikes = tonumber(ARGV[4])
local call_ttl = tonumber(ARGV[5]) -- the same as `acquire` was given
local cut_percent = ARGV[6]
local min_open, max_open = ARGV[7], ARGV[8] -- first and longest time the breaker stays open
local min_pause, max_pause = ARGV[9], ARGV[10] -- first and longest pause at the lowest limit
local retry_after = tonumber(ARGV[11]) -- what the provider asked for; 0 for nothing
local max_budget, retry_credit = tonumber(ARGV[12]), ARGV[13] / 100
local strikes_out, lane_ttl = tonumber(ARGV[14]), ARGV[15]
local tenant_name = ARGV[16]
local may_be_the_request = ARGV[17] == '1' -- the request itself may have caused this outcome
local tenant_ttl, max_closed = ARGV[18], tonumber(ARGV[19])

ensure_sorted_set(closed_key)
-- Read before the call is removed: `in_flight` counts it, too.
local lane = load_lane(lane_key, calls_key, first_limit)
local stops_counting_at = redis.call('ZSCORE', calls_key, call_id)
redis.call('ZREM', calls_key, call_id)
local tenant = load_tenant(tenant_key, tenant_calls_key, lane)
redis.call('ZREM', tenant_calls_key, call_id)
-- A call that Redis has forgotten counts as one that began just now.
local began_at = tonumber(stops_counting_at or now + call_ttl) - call_ttl
-- The probe has ended, whatever its outcome was. Another call may probe.
if redis.call('HGET', lane_key, 'probe') == call_id then redis.call('HDEL', lane_key, 'probe') end
if redis.call('HGET', tenant_key, 'probe') == call_id then
  redis.call('HDEL', tenant_key, 'probe')
  redis.call('ZREM', closed_key, tenant_name)
end
-- The end says nothing about the lane, such as a worker that was stopped.
if class == '' then return 1 end

-- Doubles `min` with each time in a row, up to `max`.
local function backoff(min, max, times)
  return math.floor(math.min(tonumber(max), tonumber(min) * 2 ^ (times - 1)))
end
-- Makes the lane unavailable, for longer each time in a row. `field` counts how often this happened
-- in a row.
local function pause_lane(min, max, field)
  local times = read_count(lane_key, field, redis.call('HGET', lane_key, field), 60) + 1
  redis.call('HSET', lane_key, field, times)
  lane.blocked_until = math.max(lane.blocked_until, now + backoff(min, max, times))
  redis.call('HSET', lane_key, 'until', lane.blocked_until, 'why', class)
  redis.call('HSETNX', lane_key, 'since', now)
end

-- Throttled: multiplicative decrease.
if class == 'throttled' then
  -- Calls that began before the last cut were made under the old limit. They must not cut the limit
  -- again, or one overload would cut it once for each call in flight.
  if began_at >= (lane.cut_at or 0) then
    redis.call('HSET', lane_key, 'limit', math.max(1, lane.limit * cut_percent / 100), 'cut', now)
    -- The limit cannot fall below one call, so the lane pauses instead.
    if lane.limit * cut_percent < 100 then pause_lane(min_pause, max_pause, 'pauses') end
  end
  -- The provider's own hint (`Retry-After`) is followed, whatever the limit is.
  if retry_after > 0 then
    redis.call('HSET', lane_key, 'until', math.max(lane.blocked_until, now + retry_after), 'why', class)
    redis.call('HSETNX', lane_key, 'since', now)
  end
-- Success: closes the circuit breaker, resets the strikes, and raises the limit (additive
-- increase).
elseif strikes == 0 then
  redis.call('HDEL', lane_key, 'strikes', 'broken', 'probe', 'openings', 'pauses', 'since')
  redis.call('DEL', tenant_key, strikers_key)
  redis.call('ZREM', closed_key, tenant_name)
  -- If Redis has forgotten the call, the time at which it began is not known, and so neither is its
  -- duration.
  if stops_counting_at then
    local took = lane.took or now - began_at
    redis.call('HSET', lane_key, 'took', took * 0.8 + (now - began_at) * 0.2)
  end
  local budget = read_number(lane_key, 'budget', redis.call('HGET', lane_key, 'budget'), max_budget, 0, max_budget)
  redis.call('HSET', lane_key, 'budget', math.min(max_budget, budget + retry_credit))
  -- The limit grows only if at least half of it was in flight, because a success below that does
  -- not show that a higher limit works. Before the first cut the limit grows by one for each
  -- success. Afterwards it grows by one for each full round of calls.
  if lane.in_flight * 2 >= lane.limit then
    local step = 1
    if lane.cut_at then step = 1 / lane.limit end
    redis.call('HSET', lane_key, 'limit', math.min(2000, lane.limit + step))
  end
-- Failure: strikes are counted, and enough strikes in a row open the circuit breaker.
else
  local against_lane = strikes
  if may_be_the_request then
    -- All strikes count against the tenant, so its own breaker opens first.
    local own_strikes = tenant.strikes + strikes
    redis.call('HSET', tenant_key, 'strikes', own_strikes)
    -- A breaker that is open already stays as it is, because late ends of calls must not keep it
    -- open longer.
    if own_strikes >= strikes_out and (tenant.blocked_until <= now or not tenant.circuit_open) then
      local times = tenant.openings + 1
      local open_until = now + backoff(min_open, max_open, times)
      redis.call('HSET', tenant_key, 'broken', 1, 'openings', times, 'until', open_until, 'why', class)
      redis.call('HSETNX', tenant_key, 'since', now)
      redis.call('ZADD', closed_key, open_until, tenant_name)
      redis.call('ZREMRANGEBYSCORE', closed_key, '-inf', now)
      -- Only the tenants with the longest times are listed: the list is read with each dispatch.
      redis.call('ZREMRANGEBYRANK', closed_key, 0, -max_closed - 1)
      redis.call('PEXPIRE', closed_key, lane_ttl)
    end
    redis.call('PEXPIRE', tenant_key, tenant_ttl)
    -- One tenant gives at most half of the strikes that open the lane's breaker, whatever it
    -- requests. So it takes two tenants to make the lane unavailable for all.
    local given = read_count(strikers_key, tenant_name, read_fields(strikers_key, tenant_name)[1], 1000)
    against_lane = math.max(0, math.min(strikes, strikes_out / 2 - given))
    if against_lane > 0 then
      redis.call('HSET', strikers_key, tenant_name, given + against_lane)
      redis.call('PEXPIRE', strikers_key, tenant_ttl)
    end
  end
  local lane_strikes = read_count(lane_key, 'strikes', redis.call('HGET', lane_key, 'strikes'), 1000) + against_lane
  redis.call('HSET', lane_key, 'strikes', lane_strikes)
  -- As for the tenant, late ends of calls do not keep an open breaker open longer. A failed probe
  -- opens it again.
  if lane_strikes >= strikes_out and (lane.blocked_until <= now or not lane.circuit_open) then
    redis.call('HSET', lane_key, 'broken', 1)
    pause_lane(min_open, max_open, 'openings')
  end
end
redis.call('PEXPIRE', lane_key, lane_ttl)
return 1

-- Reports the end of a call: removes the call from its lane, and adapts the lane to how it ended.
local lanes_key, calls_key, tenant_key, unavailable_key, strikers_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local lane_config = {
  lanes_key = lanes_key, calls_key = calls_key, name = ARGV[1],
  first_limit = tonumber(ARGV[2]), max_limit = tonumber(ARGV[3]), ttl = tonumber(ARGV[4]) }
local tenant_name = ARGV[5]
local member = tenant_name .. ':' .. ARGV[6]
local call_ttl = tonumber(ARGV[7]) -- the same as `acquire` was given
local class = ARGV[8] -- outcome class; empty where the end says nothing about the lane
local strikes = tonumber(ARGV[9])
local may_be_the_request = ARGV[10] == '1' -- the request itself may have caused this outcome
local retry_after = tonumber(ARGV[11]) -- what the provider asked for; 0 for nothing
local cut_percent = tonumber(ARGV[12])
local min_open, max_open = tonumber(ARGV[13]), tonumber(ARGV[14]) -- first and longest time the breaker stays open
local min_pause, max_pause = tonumber(ARGV[15]), tonumber(ARGV[16]) -- first and longest pause at the lowest limit
local max_budget, retry_credit = tonumber(ARGV[17]), ARGV[18] / 100
-- How many strikes open a breaker; how long a tenant's record lives after its last strike; how many
-- tenants a lane lists as unavailable.
local strikes_out, tenant_ttl, max_unavailable = tonumber(ARGV[19]), tonumber(ARGV[20]), tonumber(ARGV[21])

-- Read before the call is removed: `in_flight` counts it, too.
local lane = load_lane(read_lanes(lanes_key, {lane_config.name})[1], lane_config, false)
local state = lane.state
local stops_counting_at = run('ZSCORE', calls_key, member)
if stops_counting_at then
  redis.call('ZREM', calls_key, member)
  state.in_flight = math.max(0, lane.in_flight - 1)
end
-- A call that Redis has forgotten counts as one that began just now.
local began_at = tonumber(stops_counting_at or now + call_ttl) - call_ttl
-- The probe has ended, whatever its outcome was. Another call may probe.
if state.probe == member then state.probe = nil end
local tenant = load_tenant(tenant_key, lane)
if tenant.state.probe == member then
  tenant.state.probe = nil
  redis.call('SET', tenant_key, cjson.encode(tenant.state), 'KEEPTTL')
  run('ZREM', unavailable_key, tenant_name)
end

-- Doubles `min` with each time in a row, up to `max`.
local function backoff(min, max, times)
  return math.floor(math.min(max, min * 2 ^ (times - 1)))
end
-- Makes the lane unavailable for at least `duration`.
local function block_lane(duration)
  state['until'] = math.max(lane.blocked_until, now + duration)
  lane.blocked_until = state['until']
  state.why = class
  state.since = state.since or now
end
-- Makes the lane unavailable for `min`, and for longer each time in a row, up to `max`. The lane's
-- field `field` counts the times in a row; 60 is its highest value.
local function pause_lane(min, max, field)
  state[field] = math.min(60, (state[field] or 0) + 1)
  block_lane(backoff(min, max, state[field]))
end

-- Throttled: multiplicative decrease.
local function throttle()
  -- Calls that began before the last cut were made under the old limit. They must not cut the limit
  -- again, or one overload would cut it once for each call in flight.
  if began_at >= (state.cut or 0) then
    state.limit, state.cut = math.max(1, lane.limit * cut_percent / 100), now
    -- The limit cannot fall below one call, so the lane pauses instead.
    if lane.limit * cut_percent < 100 then pause_lane(min_pause, max_pause, 'pauses') end
  end
  -- The provider's own hint (`Retry-After`) is followed, whatever the limit is.
  if retry_after > 0 then block_lane(retry_after) end
end

-- Success: closes the circuit breaker, resets the strikes, and raises the limit (additive
-- increase).
local function succeed()
  for _, field in ipairs({'strikes', 'broken', 'probe', 'openings', 'pauses', 'since'}) do state[field] = nil end
  if lane.has_tenants then
    -- The lane's strikes are gone, so what each tenant gave of them is forgotten, too.
    redis.call('DEL', tenant_key, strikers_key)
    run('ZREM', unavailable_key, tenant_name)
  end
  -- If Redis has forgotten the call, the time at which it began is not known, and so neither is its
  -- duration.
  if stops_counting_at then
    local took = math.min(HOUR, math.max(0, now - began_at))
    state.took = (state.took or took) * 0.8 + took * 0.2
  end
  state.budget = math.min(max_budget, (state.budget or max_budget) + retry_credit)
  -- The limit grows only if at least half of it was in flight, because a success below that does
  -- not show that a higher limit works. Before the first cut the limit grows by one for each
  -- success. Afterwards it grows by one for each full round of calls.
  if lane.in_flight * 2 >= lane.limit then
    local step = state.cut and 1 / lane.limit or 1
    state.limit = math.min(lane_config.max_limit, lane.limit + step)
  end
end

-- Counts strikes against the tenant, and returns how many of them count against the lane.
local function strike_tenant()
  -- All strikes count against the tenant, so its own breaker opens first.
  local own = tenant.state
  own.strikes = math.min(1000, (own.strikes or 0) + strikes)
  -- A breaker that is open already stays as it is, because late ends of calls must not keep it
  -- open longer.
  if own.strikes >= strikes_out and (tenant.blocked_until <= now or not tenant.circuit_open) then
    own.openings = math.min(60, (own.openings or 0) + 1)
    own['until'] = now + backoff(min_open, max_open, own.openings)
    own.broken, own.why, own.since = true, class, own.since or now
    run('ZADD', unavailable_key, own['until'], tenant_name)
    redis.call('ZREMRANGEBYSCORE', unavailable_key, '-inf', now)
    -- Only the tenants with the longest times are listed: the list is read with each dispatch.
    redis.call('ZREMRANGEBYRANK', unavailable_key, 0, -max_unavailable - 1)
    redis.call('PEXPIRE', unavailable_key, lane_config.ttl)
  end
  redis.call('SET', tenant_key, cjson.encode(own), 'PX', tenant_ttl)
  state.struck = now + tenant_ttl
  -- One tenant gives at most half of the strikes that open the lane's breaker, whatever it
  -- requests. So it takes two tenants to make the lane unavailable for all.
  local given = tonumber(run('HGET', strikers_key, tenant_name) or 0)
  -- Another program may have written something that is not a number, or is NaN.
  if not given or given ~= given then given = 0 end
  local against_lane = math.max(0, math.min(strikes, strikes_out / 2 - given))
  if against_lane > 0 then
    redis.call('HSET', strikers_key, tenant_name, given + against_lane)
    redis.call('PEXPIRE', strikers_key, tenant_ttl)
  end
  return against_lane
end

-- Failure: strikes are counted, and enough strikes in a row open the circuit breaker.
local function fail()
  local against_lane = strikes
  if may_be_the_request then against_lane = strike_tenant() end
  state.strikes = math.min(1000, (state.strikes or 0) + against_lane)
  -- As for the tenant, late ends of calls do not keep an open breaker open longer. A failed probe
  -- opens it again.
  if state.strikes >= strikes_out and (lane.blocked_until <= now or not lane.circuit_open) then
    state.broken = true
    pause_lane(min_open, max_open, 'openings')
  end
end

-- An end without a class says nothing about the lane, such as that of a worker that was stopped.
if class == 'throttled' then throttle()
elseif class ~= '' and strikes == 0 then succeed()
elseif class ~= '' then fail() end
save(lane, lane_config.ttl)
return 1

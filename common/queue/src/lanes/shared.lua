-- Shared by all scripts that read lanes: the clock, the check of stored values, and the state of a
-- lane. Rust puts this text in front of each script, so its locals are visible there.
--
-- Redis runs a script alone, so each script is one atomic step. All times are milliseconds since
-- 1970 on the clock of Redis: the clocks of workers differ.
--
-- Every command inside a script costs time of the one thread of Redis. So the whole state of a lane
-- is one value, and what only failures need is read only after a failure.
--
-- Keys:
--   <queue>:lanes            hash, one field for each lane: its state as JSON (LANE_FIELDS)
--   <lane>:calls             sorted set of calls in flight, `tenant:call`, scored by when they stop
--                            counting
--   <lane>:tenant:<t>        string, the lane as tenant t sees it, as JSON (TENANT_FIELDS)
--   <lane>:closed            sorted set of tenants the lane is unavailable for, scored by until when
--   <lane>:strikers          hash, tenant -> how many of its strikes were counted against the lane
--
-- Whoever can write to Redis can plant any value. A value that no script would write is replaced: a
-- limit by the nearest allowed one, anything else as if it were absent. The name of the field goes
-- into `corrected`, so that a worker logs it.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local HOUR = 3600000
-- How long a lane must be full, without a new call, before its limit doubles. Only the limit of a
-- lane that was never throttled doubles.
local GROWTH_INTERVAL = 1000
-- When a caller should ask a full lane again. A caller that knows of the end of a call asks
-- earlier.
local FULL_WAIT = 200

-- The fields of a lane, each with its lowest and highest value, or with its type.
local LANE_FIELDS = {
  limit = {1, 2000}, -- calls allowed in flight at once; absent before the first change; fractions are kept, only whole calls are granted
  ['until'] = {0, 1e15}, -- no call starts before this time
  why = 'string', -- the outcome class that set `until`
  since = {0, now + HOUR}, -- when the lane became unavailable; absent while it is available
  broken = 'boolean', -- true while the circuit breaker is open or half-open
  probe = 'string', -- the member of `calls` that probes the lane
  strikes = {0, 1000}, -- strikes since the last success
  openings = {0, 60}, -- times in a row the breaker opened
  pauses = {0, 60}, -- times in a row the lane paused at its lowest limit
  cut = {0, now + HOUR}, -- when the limit was last cut; absent before the first cut
  took = {0, HOUR}, -- moving average of how long a call takes
  last = {0, now + 60000}, -- when the last call started
  budget = {0, 1000}, -- retries that may start
  budget_at = {0, now + HOUR}, -- when the last retry started
  struck = {0, now + 2 * HOUR}, -- until when records of tenants with strikes may exist
  in_flight = {0, 1e6}, -- number of members of `calls`
  recount_at = {0, now + 2 * HOUR}, -- when a member of `calls` may stop counting: count again
  keep_at = {0, now + 24 * HOUR}, -- from when on a write must renew the time to live of the keys
}
-- The fields of a lane as one tenant sees it, with the same meanings: its own strikes and breaker.
local TENANT_FIELDS = {
  ['until'] = {0, 1e15}, why = 'string', since = {0, now + HOUR}, broken = 'boolean', probe = 'string',
  strikes = {0, 1000}, openings = {0, 60},
}

-- Runs a command. If the key has a value of another type, deletes the key and runs the command
-- again.
local function run(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then redis.call('DEL', key) end
  return redis.call(command, key, ...)
end

-- Returns the value if the field may hold it, else the value that replaces it: a limit within its
-- bounds, or nil.
local function allowed_value(field, value, allowed)
  if type(allowed) == 'string' then
    if type(value) == allowed and (allowed ~= 'string' or #value <= 200) then return value end
    return nil
  end
  -- NaN differs from itself.
  if type(value) ~= 'number' or value ~= value then return nil end
  if value >= allowed[1] and value <= allowed[2] then return value end
  -- A limit is set to its nearest bound, because the default could be far from the limit that suits
  -- the provider.
  if field == 'limit' then return math.max(allowed[1], math.min(allowed[2], value)) end
  return nil
end

-- Reads a record: the known fields of a stored JSON object. The record's field `corrected` names
-- the fields that were replaced, now or before.
local function decode(text, fields)
  if not text then return {} end
  local is_json, stored = pcall(cjson.decode, text)
  if not is_json or type(stored) ~= 'table' then return {corrected = 'type'} end
  local record, corrected = {}, {}
  if type(stored.corrected) == 'string' then corrected[1] = string.sub(stored.corrected, 1, 200) end
  for field, allowed in pairs(fields) do
    local value = stored[field]
    if value ~= nil then
      record[field] = allowed_value(field, value, allowed)
      if record[field] ~= value then table.insert(corrected, field) end
    end
  end
  if #corrected > 0 then record.corrected = table.concat(corrected, ' ') end
  return record
end

-- Reads the fields of several lanes from the hash of all lanes, with one command.
local function read_lanes(lanes_key, names)
  local texts = redis.pcall('HMGET', lanes_key, unpack(names))
  if not texts.err then return texts end
  redis.call('DEL', lanes_key)
  -- A text that is not JSON, so that `decode` reports the correction of each lane.
  for i = 1, #names do texts[i] = 'another type' end
  return texts
end

-- Writes the state of a lane. `lane_ttl` is how long the keys live after the last call: their time
-- to live is renewed when half of it has passed.
local function save(lane, lane_ttl)
  local state = lane.state
  local is_due = now >= (state.keep_at or 0)
  if is_due then state.keep_at = now + lane_ttl / 2 end
  redis.call('HSET', lane.lanes_key, lane.name, cjson.encode(state))
  if is_due then
    redis.call('PEXPIRE', lane.lanes_key, lane_ttl)
    redis.call('PEXPIRE', lane.calls_key, lane_ttl)
  end
end

-- Counts the calls in flight, after removing those that no longer count.
local function recount(lane)
  -- Nobody reported the end of these calls in time, so their worker died.
  run('ZREMRANGEBYSCORE', lane.calls_key, '-inf', now)
  -- No model may take two hours, so the value was planted, or the clock was set back.
  redis.call('ZREMRANGEBYSCORE', lane.calls_key, '(' .. now + 2 * HOUR, '+inf')
  lane.state.in_flight = redis.call('ZCARD', lane.calls_key)
  local first = redis.call('ZRANGE', lane.calls_key, 0, 0, 'WITHSCORES')
  lane.state.recount_at = math.min(tonumber(first[2]) or now + HOUR, now + HOUR)
end

-- Loads a lane from its stored state. In the result, `wait` is 0 if a call may start, else the
-- milliseconds until asking again makes sense; `why` says what the call waits for, and `cause` what
-- opened the circuit breaker. `lane_config` has the keys and limits of the lane: lanes_key,
-- calls_key, name, first_limit, max_limit and ttl. `may_grow` applies the growth of a full lane,
-- but does not store it.
local function load_lane(text, lane_config, may_grow)
  local state = decode(text, LANE_FIELDS)
  -- What was learned hours ago is worth nothing.
  if state.last and now - state.last > lane_config.ttl then state = {corrected = state.corrected} end
  local lane = {
    state = state, lanes_key = lane_config.lanes_key, calls_key = lane_config.calls_key, name = lane_config.name,
    limit = math.min(state.limit or lane_config.first_limit, lane_config.max_limit),
    blocked_until = state['until'] or 0, circuit_open = state.broken or false,
    why = state.why or '', cause = state.why or '', gap = 0, gap_left = 0, has_tenants = (state.struck or 0) > now }
  if not state.in_flight or now >= (state.recount_at or 0) then
    recount(lane)
    save(lane, lane_config.ttl)
  end
  lane.in_flight = state.in_flight
  -- A lane whose limit was never cut doubles the limit when the limit, or the share of one tenant,
  -- was used up for a while: the provider has answered none of these calls with 429.
  if may_grow and not state.cut and state.last and now - state.last >= GROWTH_INTERVAL
      and lane.in_flight >= math.floor(lane.limit) - math.floor(lane.limit / 8) and lane.limit < lane_config.max_limit then
    lane.limit = math.min(lane_config.max_limit, lane.limit * 2)
    lane.has_grown = true
  end
  -- A clock that was set back must not keep a lane unavailable for the whole jump.
  if lane.blocked_until > now + HOUR then lane.blocked_until = now end
  -- Calls are spread evenly only after the first cut: a provider that counts calls per second
  -- refuses a burst. The factor 0.7 lets calls start a little faster than they end, so that the
  -- limit can be reached.
  if state.cut and state.took then
    lane.gap = math.min(60000, state.took / lane.limit * 0.7)
    lane.gap_left = math.min(lane.gap, (state.last or 0) + lane.gap - now)
  end
  -- If the worker of a probe died, its call is removed from the sorted set after a time, and
  -- another call may probe.
  local is_probed = lane.circuit_open and state.probe and run('ZSCORE', lane.calls_key, state.probe)
  -- Paused, or the circuit breaker is open.
  if lane.blocked_until > now then lane.wait = math.ceil(lane.blocked_until - now)
  -- Half-open: one call decides for all others, and may end at any moment.
  elseif is_probed then lane.wait = 500
  -- Full: a call may end at any moment.
  elseif lane.in_flight >= math.floor(lane.limit) then lane.wait, lane.why = FULL_WAIT, 'full'
  -- The gap to the last call is long. A short gap is checked only by `acquire`.
  elseif lane.gap_left > 1000 then lane.wait, lane.why = math.ceil(lane.gap_left), 'full'
  else lane.wait = 0 end
  return lane
end

-- Whether a tenant has as many calls in flight as it may: an eighth of the lane's limit is kept for
-- other tenants. The tenant's calls are counted only if the whole lane has so many calls.
local function has_used_share(lane, tenant_name)
  local share = math.max(1, math.floor(lane.limit) - math.floor(lane.limit / 8))
  if lane.in_flight < share then return false end
  local count, prefix = 0, tenant_name .. ':'
  for _, member in ipairs(run('ZRANGE', lane.calls_key, 0, -1)) do
    if string.sub(member, 1, #prefix) == prefix then count = count + 1 end
  end
  return count >= share
end

-- Loads the lane as one tenant sees it: its own strikes and circuit breaker.
local function load_tenant(tenant_key, lane)
  local text = lane.has_tenants and run('GET', tenant_key)
  local state = decode(text, TENANT_FIELDS)
  -- Only corrections of lanes are logged.
  state.corrected = nil
  local tenant = {state = state, blocked_until = state['until'] or 0, circuit_open = state.broken or false, why = state.why or ''}
  -- As for the lane, a clock that was set back must not block the tenant for long.
  if tenant.blocked_until > now + HOUR then tenant.blocked_until = now end
  return tenant
end

-- Asks for permission to make a call. Returns {wait in ms, reason}; a wait of 0 grants it.
local lanes_key, calls_key, tenant_key, unavailable_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lane_config = {
  lanes_key = lanes_key, calls_key = calls_key, name = ARGV[1],
  first_limit = tonumber(ARGV[2]), max_limit = tonumber(ARGV[3]), ttl = tonumber(ARGV[4]) }
local tenant_name = ARGV[5]
local member = tenant_name .. ':' .. ARGV[6]
local call_ttl = tonumber(ARGV[7]) -- how long the call counts if nobody reports its end
local is_retry = ARGV[8] == '1'
local max_budget = tonumber(ARGV[9])

-- The lane itself is checked first. If it is unavailable for all tenants, it is unavailable for
-- this tenant, too.
local lane = load_lane(read_lanes(lanes_key, {lane_config.name})[1], lane_config, true)
local state = lane.state
if lane.wait > 0 then return {lane.wait, lane.why} end
local tenant = load_tenant(tenant_key, lane)
-- The circuit breaker is open for this tenant.
if tenant.blocked_until > now then return {math.ceil(tenant.blocked_until - now), tenant.why} end
-- Half-open for this tenant: one of the tenant's calls probes, and may end at any moment.
if tenant.circuit_open and tenant.state.probe and run('ZSCORE', calls_key, tenant.state.probe) then
  return {500, tenant.why}
end
if has_used_share(lane, tenant_name) then return {FULL_WAIT, 'full'} end
-- In the first second in which the lane is half-open, a tenant whose own breaker is not closed may
-- not probe. Otherwise a prompt that makes the model fail could be the probe each time.
if lane.circuit_open and tenant.circuit_open and now < lane.blocked_until + 1000 then
  return {math.ceil(lane.blocked_until + 1000 - now), lane.cause}
end
-- Too soon after the last call started: calls are spread evenly.
if lane.gap_left > 0 then return {math.ceil(lane.gap_left), 'full'} end
-- A retry takes one from the budget, which grows by one in two seconds and also with each success.
-- The budget is checked last, so a call that is refused for another reason takes nothing from it.
if is_retry then
  local saved = state.budget or max_budget
  local budget = math.min(max_budget, saved + (now - (state.budget_at or now)) / 2000)
  if budget < 1 then return {1000, 'retries'} end
  state.budget, state.budget_at = budget - 1, now
end
-- The breaker is half-open and nobody probes: this call does.
if lane.circuit_open then state.probe = member end
if tenant.circuit_open then
  tenant.state.probe = member
  redis.call('SET', tenant_key, cjson.encode(tenant.state), 'KEEPTTL')
  -- The dispatcher starts no further job of this tenant until the probe has ended.
  run('ZADD', unavailable_key, now + call_ttl, tenant_name)
  redis.call('PEXPIRE', unavailable_key, lane_config.ttl)
end
-- The growth of a full lane is stored only here, when the lane is used further.
if lane.has_grown then state.limit = lane.limit end
run('ZADD', calls_key, now + call_ttl, member)
-- Redis drops an empty sorted set together with its time to live.
if lane.in_flight == 0 then redis.call('PEXPIRE', calls_key, lane_config.ttl) end
state.in_flight = lane.in_flight + 1
state.recount_at = math.min(state.recount_at, now + call_ttl)
state.last = now
save(lane, lane_config.ttl)
return {0, ''}

-- Asks for permission to make a call. Returns {wait in ms, reason}; a wait of 0 grants it.
local lane_key, calls_key, tenant_key, tenant_calls_key, closed_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local call_id = ARGV[1]
local call_ttl = tonumber(ARGV[2]) -- how long the call counts if nobody reports its end
local first_limit = ARGV[3]
local is_retry = ARGV[4] == '1'
local max_budget = tonumber(ARGV[5])
local lane_ttl = ARGV[6]
local tenant_name = ARGV[7]

ensure_sorted_set(closed_key)
-- The lane itself is checked first. If it is unavailable for all tenants, it is unavailable for
-- this tenant, too.
local lane = load_lane(lane_key, calls_key, first_limit)
if lane.wait > 0 then return {lane.wait, lane.why} end
local tenant = load_tenant(tenant_key, tenant_calls_key, lane)
if tenant.wait > 0 then return {tenant.wait, tenant.why} end
-- For one second, only tenants that did not help to open the breaker may probe. Otherwise a prompt
-- that makes the model fail could be the probe each time.
if lane.circuit_open and tenant.circuit_open and now < lane.blocked_until + 1000 then
  return {math.ceil(lane.blocked_until + 1000 - now), lane.cause}
end
-- Too soon after the last call: calls are spread evenly.
if lane.gap_left > 0 then return {math.ceil(lane.gap_left), 'full'} end
-- A retry takes one from the budget, which grows by one in two seconds and also with each success.
-- The budget is checked last, so a call that is refused for another reason takes nothing from it.
if is_retry then
  local stored = redis.call('HMGET', lane_key, 'budget', 'budget_at')
  local saved = read_number(lane_key, 'budget', stored[1], max_budget, 0, max_budget)
  local saved_at = read_number(lane_key, 'budget_at', stored[2], now, 0, now + HOUR)
  local budget = math.min(max_budget, saved + (now - saved_at) / 2000)
  if budget < 1 then return {1000, 'retries'} end
  redis.call('HSET', lane_key, 'budget', budget - 1, 'budget_at', now)
end
-- The breaker is half-open and nobody probes: this call does.
if lane.circuit_open then redis.call('HSET', lane_key, 'probe', call_id) end
if tenant.circuit_open then
  redis.call('HSET', tenant_key, 'probe', call_id)
  -- The dispatcher starts no further job of this tenant until the probe has ended.
  redis.call('ZADD', closed_key, now + call_ttl, tenant_name)
  redis.call('PEXPIRE', closed_key, lane_ttl)
end
redis.call('ZADD', calls_key, now + call_ttl, call_id)
redis.call('ZADD', tenant_calls_key, now + call_ttl, call_id)
redis.call('HSET', lane_key, 'last', now)
redis.call('PEXPIRE', lane_key, lane_ttl)
redis.call('PEXPIRE', calls_key, lane_ttl)
redis.call('PEXPIRE', tenant_calls_key, 2 * HOUR)
return {0, ''}

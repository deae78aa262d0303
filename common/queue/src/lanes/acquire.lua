-- Lets a call in, or says for how long not, and why.
local hash, calls, tenant_hash, tenant_calls, closed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local call, ends_within, first_limit, retry, most_budget, forgotten, tenant_name =
  ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1', tonumber(ARGV[5]), ARGV[6], ARGV[7]

sorted_set(closed)
local lane = look(hash, calls, first_limit)
if lane.wait > 0 then return {lane.wait, lane.why} end
local tenant = look_at_tenant(tenant_hash, tenant_calls, lane)
if tenant.wait > 0 then return {tenant.wait, tenant.why} end
-- A lane that is to be probed is probed by others than who helped to close it, if they come within a second.
if lane.broken and tenant.broken and now < lane.until_ + 1000 then return {math.ceil(lane.until_ + 1000 - now), lane.cause} end
if lane.early > 0 then return {math.ceil(lane.early), 'full'} end
if retry then
  local known = redis.call('HMGET', hash, 'budget', 'budget_at')
  local saved = number(hash, 'budget', known[1], most_budget, 0, most_budget)
  local at = number(hash, 'budget_at', known[2], now, 0, now + HOUR)
  local budget = math.min(most_budget, saved + (now - at) / 2000)
  if budget < 1 then return {1000, 'retries'} end
  redis.call('HSET', hash, 'budget', budget - 1, 'budget_at', now)
end
if lane.broken then redis.call('HSET', hash, 'probe', call) end
if tenant.broken then
  redis.call('HSET', tenant_hash, 'probe', call)
  -- Until it is answered no further job of the tenant is started.
  redis.call('ZADD', closed, now + ends_within, tenant_name)
  redis.call('PEXPIRE', closed, forgotten)
end
redis.call('ZADD', calls, now + ends_within, call)
redis.call('ZADD', tenant_calls, now + ends_within, call)
redis.call('HSET', hash, 'last', now)
redis.call('PEXPIRE', hash, forgotten)
redis.call('PEXPIRE', calls, forgotten)
redis.call('PEXPIRE', tenant_calls, 2 * HOUR)
return {0, ''}

-- Takes a call off its lane, and learns from how it ended.
local hash, calls, tenant_hash, tenant_calls, closed, strikers = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local call, first_limit, class, strikes, ends_within, cut = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local least, most, least_throttled, most_throttled, hint = ARGV[7], ARGV[8], ARGV[9], ARGV[10], tonumber(ARGV[11])
local most_budget, earned, strikes_out, forgotten = tonumber(ARGV[12]), ARGV[13] / 100, tonumber(ARGV[14]), ARGV[15]
local tenant_name, by_request, tenant_forgotten, most_closed = ARGV[16], ARGV[17] == '1', ARGV[18], tonumber(ARGV[19])

sorted_set(closed)
local lane = look(hash, calls, first_limit)
local ends = redis.call('ZSCORE', calls, call)
redis.call('ZREM', calls, call)
local tenant = look_at_tenant(tenant_hash, tenant_calls, lane)
redis.call('ZREM', tenant_calls, call)
local began = tonumber(ends or now + ends_within) - ends_within
if redis.call('HGET', hash, 'probe') == call then redis.call('HDEL', hash, 'probe') end
if redis.call('HGET', tenant_hash, 'probe') == call then
  redis.call('HDEL', tenant_hash, 'probe')
  redis.call('ZREM', closed, tenant_name)
end
if class == '' then return 1 end

-- How long somebody is kept out for the n-th time in a row.
local function length(least, most, times)
  return math.floor(math.min(tonumber(most), tonumber(least) * 2 ^ (times - 1)))
end
local function pause(least, most, field)
  local times = count(hash, field, redis.call('HGET', hash, field), 60) + 1
  redis.call('HSET', hash, field, times)
  lane.until_ = math.max(lane.until_, now + length(least, most, times))
  redis.call('HSET', hash, 'until', lane.until_, 'why', class)
  redis.call('HSETNX', hash, 'since', now)
end

if class == 'throttled' then
  if began >= (lane.cut or 0) then
    redis.call('HSET', hash, 'limit', math.max(1, lane.limit * cut / 100), 'cut', now)
    if lane.limit * cut < 100 then pause(least_throttled, most_throttled, 'pauses') end
  end
  if hint > 0 then
    redis.call('HSET', hash, 'until', math.max(lane.until_, now + hint), 'why', class)
    redis.call('HSETNX', hash, 'since', now)
  end
elseif strikes == 0 then
  redis.call('HDEL', hash, 'strikes', 'broken', 'probe', 'openings', 'pauses', 'since')
  redis.call('DEL', tenant_hash, strikers)
  redis.call('ZREM', closed, tenant_name)
  if ends then
    local took = lane.took or now - began
    redis.call('HSET', hash, 'took', took * 0.8 + (now - began) * 0.2)
  end
  local budget = number(hash, 'budget', redis.call('HGET', hash, 'budget'), most_budget, 0, most_budget)
  redis.call('HSET', hash, 'budget', math.min(most_budget, budget + earned))
  if lane.flying * 2 >= lane.limit then
    local step = 1
    if lane.cut then step = 1 / lane.limit end
    redis.call('HSET', hash, 'limit', math.min(2000, lane.limit + step))
  end
else
  local against_lane = strikes
  if by_request then
    -- What the request may have brought about closes the lane for its tenant. Of the strikes that close it for all
    -- one tenant gives half at most: so it takes two, whatever one of them asks for.
    local own = tenant.strikes + strikes
    redis.call('HSET', tenant_hash, 'strikes', own)
    if own >= strikes_out and (tenant.until_ <= now or not tenant.broken) then
      local times = tenant.openings + 1
      local until_ = now + length(least, most, times)
      redis.call('HSET', tenant_hash, 'broken', 1, 'openings', times, 'until', until_, 'why', class)
      redis.call('HSETNX', tenant_hash, 'since', now)
      redis.call('ZADD', closed, until_, tenant_name)
      redis.call('ZREMRANGEBYSCORE', closed, '-inf', now)
      redis.call('ZREMRANGEBYRANK', closed, 0, -most_closed - 1)
      redis.call('PEXPIRE', closed, forgotten)
    end
    redis.call('PEXPIRE', tenant_hash, tenant_forgotten)
    local given = count(strikers, tenant_name, fields(strikers, tenant_name)[1], 1000)
    against_lane = math.max(0, math.min(strikes, strikes_out / 2 - given))
    if against_lane > 0 then
      redis.call('HSET', strikers, tenant_name, given + against_lane)
      redis.call('PEXPIRE', strikers, tenant_forgotten)
    end
  end
  local struck = count(hash, 'strikes', redis.call('HGET', hash, 'strikes'), 1000) + against_lane
  redis.call('HSET', hash, 'strikes', struck)
  if struck >= strikes_out and (lane.until_ <= now or not lane.broken) then
    redis.call('HSET', hash, 'broken', 1)
    pause(least, most, 'openings')
  end
end
redis.call('PEXPIRE', hash, forgotten)
return 1

-- Shared by the scripts of lanes: the clock, what a lane's hash holds, and why nobody is let in.
--
-- Whoever can write into Redis can plant any value. One that no script would write is replaced: a limit by the
-- nearest there may be, all else as if nothing were known. Its field is named in `corrected`, so that a worker logs
-- it.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local HOUR = 3600000

-- The fields of a hash, or none where the key holds something else, which is deleted.
local function fields(hash, ...)
  local known = redis.pcall('HMGET', hash, ...)
  if not known.err then return known end
  redis.call('DEL', hash)
  redis.call('HSET', hash, 'corrected', 'type')
  return redis.call('HMGET', hash, ...)
end

-- A number within bounds. A comparison with NaN is false, so it is neither.
local function number(hash, field, text, default, least, most)
  if not text then return default end
  local value = tonumber(text)
  if value and value >= least and value <= most then return value end
  if field ~= 'limit' or not value or value ~= value then value = default
  else value = math.max(least, math.min(most, value)) end
  if value then redis.call('HSET', hash, field, value) else redis.call('HDEL', hash, field) end
  local before = redis.call('HGET', hash, 'corrected')
  if not before then redis.call('HSET', hash, 'corrected', field)
  elseif #before < 200 then redis.call('HSET', hash, 'corrected', before .. ' ' .. field) end
  return value
end

-- A whole number within bounds: what is counted.
local function count(hash, field, text, most)
  return math.floor(number(hash, field, text, 0, 0, most))
end

-- Deletes what is no sorted set.
local function sorted_set(key)
  local card = redis.pcall('ZCARD', key)
  if type(card) == 'table' and card.err then redis.call('DEL', key) end
end

-- Calls in flight: those whose end is not over, and no further away than any model may take.
local function flying(calls)
  sorted_set(calls)
  redis.call('ZREMRANGEBYSCORE', calls, '-inf', now)
  redis.call('ZREMRANGEBYSCORE', calls, '(' .. now + 2 * HOUR, '+inf')
  return redis.call('ZCARD', calls)
end

local function look(hash, calls, first_limit)
  local known = fields(hash, 'limit', 'until', 'why', 'broken', 'probe', 'cut', 'took', 'last', 'since')
  local lane = {
    limit = number(hash, 'limit', known[1], tonumber(first_limit), 1, 2000),
    until_ = number(hash, 'until', known[2], 0, 0, 1e15),
    why = known[3] or '', cause = known[3] or '', broken = known[4] == '1',
    cut = number(hash, 'cut', known[6], nil, 0, now + HOUR),
    took = number(hash, 'took', known[7], nil, 0, HOUR),
    since = count(hash, 'since', known[9], now + HOUR),
    flying = flying(calls), gap = 0, early = 0 }
  -- A clock that went back must not keep a lane closed for the whole jump.
  if lane.until_ > now + HOUR then lane.until_ = now end
  if lane.cut and lane.took then
    lane.gap = math.min(60000, lane.took / lane.limit * 0.7)
    local last = number(hash, 'last', known[8], 0, 0, now + 60000)
    lane.early = math.min(lane.gap, last + lane.gap - now)
  end
  local probing = lane.broken and known[5] and redis.call('ZSCORE', calls, known[5])
  if lane.until_ > now then lane.wait = math.ceil(lane.until_ - now)
  elseif probing then lane.wait = 500
  elseif lane.flying >= math.floor(lane.limit) then lane.wait, lane.why = 50, 'full'
  elseif lane.early > 1000 then lane.wait, lane.why = math.ceil(lane.early), 'full'
  else lane.wait = 0 end
  return lane
end

-- How the lane stands for one tenant: closed by its own calls, or with as many of them in flight as one tenant may have. An
-- eighth of the lane's limit is kept for others.
local function look_at_tenant(hash, calls, lane)
  local known = fields(hash, 'until', 'why', 'broken', 'probe', 'strikes', 'openings')
  local tenant = {
    until_ = number(hash, 'until', known[1], 0, 0, 1e15), why = known[2] or '', broken = known[3] == '1',
    strikes = count(hash, 'strikes', known[5], 1000), openings = count(hash, 'openings', known[6], 60),
    flying = flying(calls) }
  if tenant.until_ > now + HOUR then tenant.until_ = now end
  local share = math.max(1, math.floor(lane.limit) - math.floor(lane.limit / 8))
  if tenant.until_ > now then tenant.wait = math.ceil(tenant.until_ - now)
  elseif tenant.broken and known[4] and redis.call('ZSCORE', calls, known[4]) then tenant.wait = 500
  elseif tenant.flying >= share then tenant.wait, tenant.why = 50, 'full'
  else tenant.wait = 0 end
  return tenant
end

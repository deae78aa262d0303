-- Returns the state of lanes. Three keys for each lane: its hash, its calls in flight, and the
-- tenants it is unavailable for.
local first_limit, max_closed, tenant_infix = ARGV[1], ARGV[2], ':tenant:'
local states = {}
for i = 1, #KEYS, 3 do
  local lane_key, calls_key, closed_key = KEYS[i], KEYS[i + 1], KEYS[i + 2]
  local lane = load_lane(lane_key, calls_key, first_limit)
  -- The field is deleted as soon as it is read, so that each correction is logged only once.
  local corrected = redis.call('HGET', lane_key, 'corrected')
  if corrected then redis.call('HDEL', lane_key, 'corrected') end
  local tenants = {}
  ensure_sorted_set(closed_key)
  -- Tenants for whom the lane is still unavailable, the longest time first.
  local members = redis.call('ZRANGE', closed_key, '+inf', '(' .. now, 'BYSCORE', 'REV', 'LIMIT', 0, max_closed, 'WITHSCORES')
  for j = 1, #members, 2 do
    local name, blocked_until = members[j], tonumber(members[j + 1])
    local stored = read_fields(lane_key .. tenant_infix .. name, 'why', 'since')
    local wait = math.min(2 * HOUR, math.ceil(blocked_until - now))
    -- This value is only read and never corrected, because `load_tenant` does not use it.
    local since = math.floor(tonumber(stored[2] or 0) or 0)
    if since < 0 or since > now + HOUR then since = 0 end
    table.insert(tenants, {name, wait, stored[1] or '', since})
  end
  -- Redis cuts the fraction off a number in a reply, so the limit is sent as text.
  table.insert(states, {tostring(lane.limit), lane.in_flight, math.ceil(lane.wait), lane.why, math.ceil(lane.gap),
    lane.circuit_open and 1 or 0, lane.cause, lane.since, corrected or '', tenants})
end
return states

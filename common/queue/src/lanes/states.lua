-- How lanes stand: three keys for each, its hash, its calls, and for which tenants it is closed.
local first_limit, most_closed, prefix_of_tenants = ARGV[1], ARGV[2], ':tenant:'
local states = {}
for i = 1, #KEYS, 3 do
  local hash, calls, closed = KEYS[i], KEYS[i + 1], KEYS[i + 2]
  local lane = look(hash, calls, first_limit)
  local corrected = redis.call('HGET', hash, 'corrected')
  if corrected then redis.call('HDEL', hash, 'corrected') end
  local tenants = {}
  sorted_set(closed)
  local members = redis.call('ZRANGE', closed, '+inf', '(' .. now, 'BYSCORE', 'REV', 'LIMIT', 0, most_closed, 'WITHSCORES')
  for j = 1, #members, 2 do
    local known = fields(hash .. prefix_of_tenants .. members[j], 'why', 'since')
    local wait = math.min(2 * HOUR, math.ceil(tonumber(members[j + 1]) - now))
    local since = math.floor(tonumber(known[2] or 0) or 0)
    if since < 0 or since > now + HOUR then since = 0 end
    table.insert(tenants, {members[j], wait, known[1] or '', since})
  end
  table.insert(states, {tostring(lane.limit), lane.flying, math.ceil(lane.wait), lane.why, math.ceil(lane.gap),
    lane.broken and 1 or 0, lane.cause, lane.since, corrected or '', tenants})
end
return states

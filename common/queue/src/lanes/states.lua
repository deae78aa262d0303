-- Returns the state of lanes. Two keys for each lane, after the key of all lanes: its calls in
-- flight, and the tenants it is unavailable for. Four arguments for each lane: its name, first
-- limit and highest limit, and what the keys of its tenants' records begin with.
local lanes_key = KEYS[1]
local lane_ttl, max_unavailable = tonumber(ARGV[1]), ARGV[2]
local names = {}
for i = 3, #ARGV, 4 do table.insert(names, ARGV[i]) end
local states = {}
for i, text in ipairs(read_lanes(lanes_key, names)) do
  local calls_key, unavailable_key, at = KEYS[2 * i], KEYS[2 * i + 1], 4 * i - 1
  local lane = load_lane(text, {
    lanes_key = lanes_key, calls_key = calls_key, name = names[i],
    first_limit = tonumber(ARGV[at + 1]), max_limit = tonumber(ARGV[at + 2]), ttl = lane_ttl }, true)
  -- The field is deleted as soon as it is read, so that each correction is logged only once.
  local corrected = lane.state.corrected or ''
  if corrected ~= '' then
    lane.state.corrected = nil
    save(lane, lane_ttl)
  end
  local tenants = {}
  -- Tenants for whom the lane is still unavailable, the longest time first.
  local members = lane.has_tenants
    and run('ZRANGE', unavailable_key, '+inf', '(' .. now, 'BYSCORE', 'REV', 'LIMIT', 0, max_unavailable, 'WITHSCORES') or {}
  for j = 1, #members, 2 do
    local tenant = load_tenant(ARGV[at + 3] .. members[j], lane)
    local wait = math.min(2 * HOUR, math.ceil(tonumber(members[j + 1]) - now))
    table.insert(tenants, {members[j], wait, tenant.why, math.floor(tenant.state.since or 0)})
  end
  -- Redis cuts the fraction off a number in a reply, so the limit is sent as text.
  table.insert(states, {tostring(lane.limit), lane.in_flight, math.ceil(lane.wait), lane.why, math.ceil(lane.gap),
    lane.circuit_open and 1 or 0, lane.cause, lane.state.since or 0, corrected, tenants})
end
return states

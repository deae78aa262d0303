-- Adds a new job to the ready queue if the queue is below its target, and to the list of new jobs
-- while a worker has no free slot. Adds nothing and returns 0 if the job may not start, because
-- every lane that it may use is unavailable. Else returns 1, even if the queue is at its target.
-- One script, so that no other command runs between the checks and the additions. Two keys for each
-- lane: its calls in flight, and the tenants it is unavailable for. Three arguments for each lane:
-- its name, first limit and highest limit.
local lanes_key, ready_key, target_key, full_key, fresh_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local job, virtual_time, default_target = ARGV[1], ARGV[2], ARGV[3]
local tenant_name, lane_ttl = ARGV[4], tonumber(ARGV[5])
local names = {}
for i = 6, #ARGV, 3 do table.insert(names, ARGV[i]) end
local is_startable, retired = false, 0
for i, text in ipairs(read_lanes(lanes_key, names)) do
  local at = 3 * i + 3
  local lane = load_lane(text, {
    lanes_key = lanes_key, calls_key = KEYS[2 * i + 4], name = names[i],
    first_limit = tonumber(ARGV[at + 1]), max_limit = tonumber(ARGV[at + 2]), ttl = lane_ttl }, true)
  local unavailable_until = lane.has_tenants and run('ZSCORE', KEYS[2 * i + 5], tenant_name)
  if lane.wait == 0 and tonumber(unavailable_until or 0) <= now then is_startable = true
  elseif lane.wait > 0 and lane.why == 'model_retired' then retired = retired + 1 end
end
-- The jobs of a model that its provider has retired may start, so that they fail at once instead of
-- waiting until their deadline.
if not is_startable and retired < #names then return 0 end
local target_and_full = redis.call('MGET', target_key, full_key)
local target = tonumber(target_and_full[1] or default_target)
if redis.call('ZCARD', ready_key) < target then redis.call('ZADD', ready_key, 'NX', virtual_time, job) end
if target_and_full[2] then redis.call('ZADD', fresh_key, 'NX', virtual_time, job) end
return 1

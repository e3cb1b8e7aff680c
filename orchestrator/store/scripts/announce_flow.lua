-- Announce a flow: its plan can be started by name, its buckets have these numbers from now on.
-- KEYS    1 plan, 2 announced flows, 3 limits, 4 limits that an operator has set: they stand until the code has other numbers
-- ARGV    1 flow, 2 plan hash, 3 the plan's fields (JSON object), 4 limits (JSON object), 5 retention in ms
-- Returns the hash of the plan that was announced before, or ''.
-- TTL     none while announced; the plan announced before lives as long as its runs' records, at least the retention.
--         A second call is the same.
local flow, plan_hash = ARGV[1], ARGV[2]
for field, value in pairs(cjson.decode(ARGV[3])) do
  redis.call('HSET', KEYS[1], field, value)
end
redis.call('HSET', KEYS[1], 'announced', '1')
redis.call('PERSIST', KEYS[1])
for bucket, numbers in pairs(cjson.decode(ARGV[4])) do
  if redis.call('HGET', KEYS[4], bucket) ~= numbers then
    redis.call('HSET', KEYS[3], bucket, numbers)
    redis.call('HDEL', KEYS[4], bucket)
  end
end
local before = redis.call('HGET', KEYS[2], flow) or ''
redis.call('HSET', KEYS[2], flow, plan_hash)
if before ~= '' and before ~= plan_hash then
  local old = string.sub(KEYS[1], 1, #KEYS[1] - #plan_hash) .. before
  redis.call('HDEL', old, 'announced')
  if tonumber(redis.call('HGET', old, 'live') or 0) <= 0 then
    -- include: instant
    local kept = math.max(tonumber(redis.call('HGET', old, 'kept') or 0), NOW + ARGV[5])
    redis.call('PEXPIREAT', old, string.format('%.0f', kept))
  end
end
return before

-- Let go from the head of a bucket's line what the bucket can grant in the next 250 ms, less what is on its way; of slots,
-- as many as are free.
-- KEYS    1 limits, 2 buckets with a line, 3 unfinished runs
-- ARGV    1 bucket
-- Returns {milliseconds to the next look, or -1 if the line is empty; members let go...}.
-- TTL     marks of released members: one day. A second call lets go only what the bucket can grant beyond the first.
local limits = (function()
  -- include: limits
end)()
-- include: instant
local now = clock[1] * 1000000 + clock[2]
local LIMITS, LINES, LIVE, name = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local bucket = limits.read(LIMITS, name, now)
if not bucket or redis.call('ZCARD', bucket.line) == 0 then
  redis.call('ZREM', LINES, name)
  return {-1}
end
local wait = bucket:wait_for()
local answer = {0}
if wait <= limits.SLEEP_US then
  local room = bucket:room()
  local coming = redis.call('ZCOUNT', bucket.released, now - limits.OUTSTANDING_US, '+inf')
    + redis.call('ZCOUNT', bucket.asking, now - limits.OUTSTANDING_US, '+inf')
  local members = room > coming and redis.call('ZRANGE', bucket.line, 0, room - coming - 1) or {}
  for _, member in ipairs(members) do
    redis.call('ZADD', bucket.released, now, member)
    redis.call('ZREM', bucket.line, member)
    -- Nothing else knows of it if the caller dies before it wakes it.
    redis.call('ZADD', LIVE, 'XX', 'LT', NOW + 1000, string.match(member, '^[^|]+'))
    answer[#answer + 1] = member
  end
  if #members > 0 then
    redis.call('PEXPIRE', bucket.released, 86400000)
  end
end
local next_look = math.max(20, math.ceil((wait - limits.SLEEP_US) / 1000), math.floor(bucket.interval / 2000))
answer[1] = bucket.look_ms or math.min(next_look, 1000)
redis.call('ZADD', LINES, string.format('%.0f', now / 1000 + answer[1]), name)
return answer

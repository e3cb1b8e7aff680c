-- Say which timers and which lines of buckets are due, and when to ask again.
-- KEYS    1 timers, 2 buckets with a line
-- ARGV    1 longest wait in ms, 2 how many at most
-- Returns {ms to the next due instant, at most ARGV 1; number of timers; timers..., buckets...}.
-- TTL     none. A second call answers the same: it writes nothing.
-- include: instant
local timers = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', NOW, 'LIMIT', 0, ARGV[2])
local buckets = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', NOW, 'LIMIT', 0, ARGV[2])
local wait = tonumber(ARGV[1])
for _, key in ipairs({KEYS[1], KEYS[2]}) do
  local first = redis.call('ZRANGEBYSCORE', key, '(' .. string.format('%.0f', NOW), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] then
    wait = math.min(wait, tonumber(first[2]) - NOW)
  end
end
if #timers == tonumber(ARGV[2]) or #buckets == tonumber(ARGV[2]) then
  wait = 0
end
local answer = {math.max(0, math.ceil(wait)), #timers}
for _, list in ipairs({timers, buckets}) do
  for _, member in ipairs(list) do
    answer[#answer + 1] = member
  end
end
return answer

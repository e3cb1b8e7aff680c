-- Take a claim out of the record of its process and free its slots, if its run is gone or knows nothing of it: nothing else would.
-- KEYS    1 record of the process, 2 limits
-- ARGV    1 run and node, 2 token
-- Returns 1 if it was there, else 0.
-- TTL     none. A second call answers 0. Begins with HDEL: it passes in a full Redis.
local LIMITS = KEYS[2]
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text or string.sub(text, 1, #ARGV[2]) ~= ARGV[2] then
  return 0
end
local dropped, claim = redis.call('HDEL', KEYS[1], ARGV[1]), ARGV[1] .. '|' .. ARGV[2]
-- include: free_slots
return dropped

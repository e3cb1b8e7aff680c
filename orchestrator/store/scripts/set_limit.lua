-- Set the numbers of a limit, or give it the code's again.
-- KEYS    1 limits, 2 limits that an operator has set
-- ARGV    1 limit, 2 numbers, '' for the code's
-- Returns 1 if they are set, 0 if there is no such limit.
-- TTL     none: announce_flow.lua forgets them when the code has other numbers. An identical second call does the same.
local name, numbers = ARGV[1], ARGV[2]
local present = redis.call('HGET', KEYS[1], name)
if not present then
  return 0
end
local own = redis.call('HGET', KEYS[2], name) or present
if numbers == '' then
  redis.call('HSET', KEYS[1], name, own)
  redis.call('HDEL', KEYS[2], name)
else
  redis.call('HSET', KEYS[1], name, numbers)
  redis.call('HSET', KEYS[2], name, own)
end
return 1

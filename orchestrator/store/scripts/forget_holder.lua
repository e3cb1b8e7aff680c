-- Forget a process that has no open claims.
-- KEYS    1 holders, 2 its record
-- ARGV    1 holder, 2 '1' only if its lease has ended
-- Returns 1 if it is forgotten, 0 if it has claims or a lease.
-- TTL     none. An identical second call answers 1 again. Begins with ZREM: it passes in a full Redis.
-- include: instant
local lease = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
if redis.call('EXISTS', KEYS[2]) == 1 or (ARGV[2] == '1' and lease > NOW) then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
return 1

-- Note that the reconciler sweeps, and say whether it may end leases: after a gap nobody could renew one.
-- KEYS    1 sweep
-- ARGV    1 lease in ms
-- Returns {now in ms, '1' if leases may be ended, '1' if the clock or the state went back}.
-- TTL     none. A second call only moves the tick. Begins with HSET: a full Redis refuses it, and then no lease is ended.
-- include: instant
local lease = tonumber(ARGV[1])
local last = tonumber(redis.call('HGET', KEYS[1], 'last') or NOW)
redis.call('HSET', KEYS[1], 'last', string.format('%.0f', NOW))
if NOW - last > lease / 2 then
  redis.call('HSET', KEYS[1], 'calm', string.format('%.0f', NOW + lease))
end
local calm = tonumber(redis.call('HGET', KEYS[1], 'calm') or 0)
return {string.format('%.0f', NOW), NOW >= calm and '1' or '0', NOW < last - 1000 and '1' or '0'}

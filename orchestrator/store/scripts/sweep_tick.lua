-- Note that the reconciler sweeps, and say whether it may end leases: after a gap nobody could renew one.
-- KEYS    1 sweep, 2 unfinished runs, 3... indexes of the runs of each unfinished status
-- ARGV    1 lease in ms
-- Returns {now in ms, '1' if leases may be ended, '1' if the clock or the state went back, '1' if runs are missing in 2}.
-- TTL     none. A second call only moves the tick. Begins with HSET: a full Redis refuses it, and then no lease is ended.
-- include: instant
local lease = tonumber(ARGV[1])
local last = tonumber(redis.call('HGET', KEYS[1], 'last') or NOW)
redis.call('HSET', KEYS[1], 'last', string.format('%.0f', NOW))
if NOW - last > lease / 2 then
  redis.call('HSET', KEYS[1], 'calm', string.format('%.0f', NOW + lease))
end
local calm = tonumber(redis.call('HGET', KEYS[1], 'calm') or 0)
local unfinished = 0
for number = 3, #KEYS do
  unfinished = unfinished + redis.call('ZCARD', KEYS[number])
end
local is_short = redis.call('ZCARD', KEYS[2]) < unfinished
return {string.format('%.0f', NOW), NOW >= calm and '1' or '0', NOW < last - 1000 and '1' or '0', is_short and '1' or '0'}

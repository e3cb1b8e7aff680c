-- Note that the reconciler sweeps, and say whether it may end leases: after a gap nobody could renew one. Say also for what
-- there is something to do, so that a fleet at rest is asked nothing else.
-- KEYS    1 sweep, 2 unfinished runs, 3 mark of the worker's last sweep, 4 events, 5 ended runs and 6 their tags by the end of
--         their retention, 7... indexes of the runs of each unfinished status
-- ARGV    1 lease in ms, 2 number of this sweep of the worker, 3 how long its mark is kept, in ms
-- Returns {now in ms, '1' if leases may be ended, '1' if the clock or the state went back, '1' if runs are missing in 2, '1' if
--         looks are due, '1' if retentions are over, the last event of a run and of a node, the mark before, the mark now}; a mark is the
--         number, the instant in ms, and the events by then or -1.
-- TTL     none but the mark's. A second call only moves the tick. Begins with HSET: a full Redis refuses it, and then no
--         lease is ended.
-- include: instant
local lease = tonumber(ARGV[1])
local last = tonumber(redis.call('HGET', KEYS[1], 'last') or NOW)
redis.call('HSET', KEYS[1], 'last', string.format('%.0f', NOW))
if NOW - last > lease / 2 then
  redis.call('HSET', KEYS[1], 'calm', string.format('%.0f', NOW + lease))
end
local calm = tonumber(redis.call('HGET', KEYS[1], 'calm') or 0)
local unfinished = 0
for number = 7, #KEYS do
  unfinished = unfinished + redis.call('ZCARD', KEYS[number])
end
local is_short = redis.call('ZCARD', KEYS[2]) < unfinished
local function flag(is_so) return is_so and '1' or '0' end
local function is_due(key) return redis.call('ZCOUNT', key, '-inf', string.format('%.0f', NOW)) > 0 end
local function newest(stream)
  local event = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return event and event[1] or ''
end
local events, before = -1, redis.call('GET', KEYS[3]) or ''
local info = redis.pcall('XINFO', 'STREAM', KEYS[4])
for place = 1, #info - 1, 2 do
  events = info[place] == 'entries-added' and info[place + 1] or events
end
local mark = string.format('%s %.0f %d', ARGV[2], NOW, events)
redis.call('SET', KEYS[3], mark, 'PX', ARGV[3])
return {string.format('%.0f', NOW), flag(NOW >= calm), flag(NOW < last - 1000), flag(is_short), flag(is_due(KEYS[2])),
  flag(is_due(KEYS[5]) or is_due(KEYS[6])), newest(KEYS[4]) .. ' ' .. newest(KEYS[4] .. ':nodes'), before, mark}

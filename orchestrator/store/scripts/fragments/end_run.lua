-- The run has ended with the status `after`: nothing of it is indexed as live, and monitors, workers and waiting clients are told.
-- Uses NOW, RUN_ID, the keys, note, emit and what the run says: flow, created and deadline.
note('run-' .. after)
redis.call('ZREM', LIVE, RUN_ID)
if deadline then
  redis.call('ZREM', TIMERS, RUN_ID .. '|')
end
local ends = EVENTS .. ':' .. math.floor(NOW / 86400000)
if redis.call('HINCRBY', ends, math.floor(NOW / 3600000) .. '|' .. flow .. '|' .. after, 1) == 1 then
  redis.call('PEXPIRE', ends, 691200000)
end
emit(after, flow, string.format('%d', NOW - created))
redis.call('PUBLISH', DONE, after)

-- A parked node may be tried again: its timer is due or the line let it go.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 node
-- Returns {'ready', what to publish...}, or {'asleep'} with nothing to publish, or {'unknown'}.
-- TTL     none. A second call answers 'asleep': the node is not parked any more.
local node = ARGV[2]
if not load_run() then
  redis.call('ZREM', TIMERS, RUN_ID .. '|' .. node)
  return {'unknown'}
end
local rec = record(node)
if not rec or rec.state ~= 'parked' then
  redis.call('ZREM', TIMERS, RUN_ID .. '|' .. node)
  return {'asleep'}
end
if rec.bucket then
  if redis.call('ZSCORE', LIMITS .. ':line:' .. rec.bucket, RUN_ID .. '|' .. node) then
    return {'asleep'}
  end
elseif rec.due > NOW then
  return {'asleep'}
end
rec.state, rec.since, rec.due, rec.bucket = 'ready', NOW, nil, nil
rec.again, rec.looks = nil, nil  -- a message of its own is about to leave
save(node, rec)
-- The time of a run that was started with a delay begins with the first of its nodes that wakes.
local timeout = run.status == 'pending' and not run.deadline and redis.call('HMGET', RUN, 'timeout', 'begins')
local begins_time = timeout and timeout[2] and tonumber(timeout[1]) > 0
if begins_time then
  set_run({deadline = NOW + timeout[1]})
end
flush()
if begins_time then
  redis.call('ZADD', TIMERS, run.deadline, RUN_ID .. '|')
  wake_leader(run.deadline)
end
redis.call('ZREM', TIMERS, RUN_ID .. '|' .. node)
touch()
return reply('ready', maps.repeated(node, plan_node(node)))

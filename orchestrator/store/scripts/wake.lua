-- A parked node may be tried again: its timer is due or the line let it go. Or the due instant of a node that waits has come.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 node
-- Returns {'ready', what to publish...}, {'ended', what to publish...} of a node that waited, {'asleep'} with nothing to
--         publish, or {'unknown'}.
-- TTL     none. A second call answers 'asleep': the node is not parked any more, or waits no more. The row of a node that
--         waits on is set to its own due instant.
local node = ARGV[2]
if not load_run() then
  redis.call('ZREM', TIMERS, RUN_ID .. '|' .. node)
  return {'unknown'}
end
local rec = record(node)
if rec and rec.state == 'waiting' and rec.due then
  if rec.due > NOW then
    redis.call('ZADD', TIMERS, rec.due, RUN_ID .. '|' .. node)
    return {'asleep'}
  end
  return reply('ended', announced(waiting.expire(node, rec)))
end
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
local facts, work = plan_node(node), nil
-- The time of a run that was started with a delay begins with the first of its nodes that wakes.
local timeout = run.status == 'pending' and not run.deadline and redis.call('HMGET', RUN, 'timeout', 'begins')
local begins_time = timeout and timeout[2] and tonumber(timeout[1]) > 0
if begins_time then
  set_run({deadline = NOW + timeout[1]})
end
if waiting.kinds[facts.kind] then  -- a gate opens when its run begins
  if run.status == 'pending' then
    set_status('running')
  end
  work = announced(waiting.enter(node, rec.generation) and nothing() or count_join(plan_step(facts.step), true))
else
  rec.state, rec.since, rec.due, rec.bucket = 'ready', NOW, nil, nil
  rec.again, rec.looks = nil, nil  -- a message of its own is about to leave
  save(node, rec)
  work = maps.repeated(node, facts)
end
flush()
if begins_time then
  redis.call('ZADD', TIMERS, run.deadline, RUN_ID .. '|')
  wake_leader(run.deadline)
end
if not record(node) or record(node).state ~= 'waiting' or not record(node).due then
  redis.call('ZREM', TIMERS, RUN_ID .. '|' .. node)
end
touch()
return reply('ready', work)

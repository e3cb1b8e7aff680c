-- A parked node may be tried again: its timer is due or the line let it go. Or the due instant of a node that waits has come.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 node, or ':tree' to keep the run's children as long as its root lives, see children.lua, or ':admit' to let a queued
--         run begin, see lanes.lua
-- Returns {'ready', what to publish...}, {'ended', what to publish...} of a node that waited or of a gate, {'asleep'} with nothing to
--         publish, or {'unknown'}.
-- TTL     none. A second call answers 'asleep': the node is not parked any more, or waits no more. The row of a node that
--         waits on is set to its own due instant.
local node = ARGV[2]
if not load_run() then
  redis.call('ZREM', TIMERS, RUN_ID .. '|' .. node)
  return {'unknown'}
end
if node == children.TREE then
  return reply('asleep', children.tend())
elseif node == lanes.ADMIT then
  return lanes.admit()
end
local rec = record(node)
local stands = rec and rec.state == 'compensating' and plan_fact('children')
  and (rec.settles and children.settled_by(node) or children.undone_by(node))
if stands then  -- its child has ended, and the compensation waits for it
  redis.call('ZREM', TIMERS, RUN_ID .. '|' .. node)
  node, rec = stands, record(stands)
end
if rec and rec.state == 'waiting' and waiting.kinds[rec.waits].looks then
  return reply('ended', announced(waiting.expire(node, rec)))
end
if rec and rec.state == 'waiting' and rec.due then
  if run.verdict then  -- it does not go on, whether this has been noted of it or not
    return {'asleep'}
  elseif rec.due > NOW then
    redis.call('ZADD', TIMERS, rec.due, RUN_ID .. '|' .. node)
    return {'asleep'}
  end
  return reply('ended', announced(waiting.expire(node, rec)))
end
if rec and rec.ends and (rec.state == 'ready' or rec.state == 'parked') and not run.verdict and rec.ends <= NOW then
  return reply('ended', announced(abort.miss_deadline(node, rec, plan_node(node))))
elseif rec and rec.ends and rec.state == 'ready' then
  redis.call('ZADD', TIMERS, rec.ends, RUN_ID .. '|' .. node)
  return {'asleep'}
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
rec.state, rec.since, rec.due, rec.bucket = 'ready', NOW, nil, nil
rec.again, rec.looks = nil, nil  -- a message of its own is about to leave
local facts = plan_node(node)
local step = plan_step(facts.step)
-- Of a run that was started with a delay, all time begins with the first of its nodes that wakes.
if step.deadlines and not rec.ends and rec.attempt == 0 then
  rec.ends = step.deadlines[node] and NOW + step.deadlines[node]
end
save(node, rec)
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
if not rec.ends then
  redis.call('ZREM', TIMERS, RUN_ID .. '|' .. node)
end
touch()
if step.gates and waiting.kinds[facts.kind] then  -- of a run that was started with a delay
  if run.status == 'pending' then
    set_status('running')
  end
  return reply('ended', waiting.enter(node, rec.generation) and nothing() or announced(count_join(step, true)))
end
return reply('ready', maps.repeated(node, facts))

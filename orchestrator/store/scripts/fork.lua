-- Begin a run at a position of its plan, with what take_over.lua and take_parts.lua have copied from the run that it is a fork of.
-- Nothing of that is ever undone by it: the records are marked `inherited`.
-- needs: transition
-- KEYS    as transition.lua, behind them those of start.lua, behind these the source's run and history
-- ARGV    2 source, 3 its epoch, 4 position, 5 the node that was named, 6 lane in which a place is taken, or '', 7 how many fields
--         were copied: JSON of {nodes, outputs, failures, parts of each node}, 8... as start.lua, without a lane and without nodes
-- Returns {'started', what to publish...}, {'exists'} if it has begun before, {'not ended', status of the source}, {'changed'} if the
--         source is of another epoch, {'unknown'} if it is gone, {'lost'} if something that was copied is gone, or {'no plan'} or
--         {'evicts', reason} as start.lua.
-- TTL     none while the run lives. A second call answers 'exists' and writes nothing.
local source, epoch, position, at, lane, copied = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6], cjson.decode(ARGV[7])
local START_KEYS_AT, START_AT = 16, 7
local SOURCE, TOLD = unpack(KEYS, 28, 29)

local function start(KEYS, ARGV)
  -- include: start
end

-- Note in the history of the source, which has ended: it lives as long as before.
local function note_fork(history_limit, lives)
  local HISTORY = TOLD
  -- include: note
  note('forked', '', 0, RUN_ID .. ' at ' .. at)
  redis.call('RPUSH', SOURCE .. ':forks', RUN_ID)
  for _, key in ipairs(lives > 0 and {TOLD, SOURCE .. ':forks'} or {}) do
    redis.call('PEXPIRE', key, lives)
  end
end

if redis.call('EXISTS', RUN) == 1 then
  return {'exists'}
end
local status, source_epoch, source_limit = unpack(redis.call('HMGET', SOURCE, 'status', 'epoch', 'history_limit'))
if not status then
  return {'unknown'}
elseif not children.has_ended(status) then
  return {'not ended', status}
elseif source_epoch ~= epoch then
  return {'changed'}
end
local sizes = {[NODES] = copied.nodes, [OUTPUTS] = copied.outputs, [FAILURES] = copied.failures}
for node, count in pairs(copied.parts) do
  sizes[results_of(node)] = count
end
for key, count in pairs(sizes) do
  if redis.call('HLEN', key) ~= count then
    return {'lost'}
  end
end

local started = start({unpack(KEYS, START_KEYS_AT + 1)}, {unpack(ARGV, START_AT + 1)})
if started[1] ~= 'started' then
  return {started[1], started[2]}
end
redis.call('HSET', RUN, 'forked_from', source, 'forked_at', at, 'first', string.format('%d', position))
for key in pairs(sizes) do
  redis.call('PERSIST', key)
end
note_fork(source_limit, redis.call('PTTL', SOURCE))
load_run()
note('forked-from', '', 0, source .. ' at ' .. at)
set_run({position = position})
if lane ~= '' then
  redis.call('HSET', RUN, 'lane', lane)
  if not lanes.return_to() then
    redis.call('ZREM', TIMERS, RUN_ID .. '|')  -- its time begins with its admission
    return {'started'}
  end
end
local work = announced(enter(position))
if run.status == 'pending' and plan_step(position).gates then
  set_status('running')
end
return reply('started', work)

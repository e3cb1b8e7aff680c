-- A claim where nothing is out of the ordinary: a node of the run's position that is ready, without limits, pages or items.
-- It is put in front of claim.lua, whose KEYS and ARGV it has, and writes and answers what that does; making the functions
-- of the library costs more than all of its commands. Everything else is left to what stands behind it.
local position, timeout = ARGV[9], ARGV[10]
if position ~= '' then
  local RUN_ID, node, token, holder = ARGV[1], ARGV[2], ARGV[4], ARGV[5]
  local RUN, NODES, OUTPUTS, HISTORY, PLAN, LIVE, HOLDERS, INDEX = KEYS[1], KEYS[2], KEYS[3], KEYS[5], KEYS[6], KEYS[7], KEYS[9],
    KEYS[12]
  local status, plan, epoch, at, running, verdict, scheduled, history_limit, created = unpack(redis.call('HMGET', RUN,
    'status', 'plan', 'epoch', 'position', 'running', 'verdict', 'scheduled', 'history_limit', 'created'))
  local text = redis.call('HGET', NODES, node)
  local rec = text and cjson.decode(text) or {}
  if (status == 'running' or status == 'pending') and (verdict or '') == '' and epoch == ARGV[3] and at == position
    and string.sub(PLAN, -#plan) == plan and rec.state == 'ready'
    and not (rec.arrived or rec.buckets or rec.throttled or rec.lost) then
    -- include: instant
    -- include: records
    -- include: note
    -- include: index
    local attempt, deadline = rec.attempt + 1, string.format('%.0f', NOW + timeout)
    redis.call('HSET', NODES, node, string.format(RUNNING, attempt, rec.generation or 0, string.format('%.0f', rec.since), instant,
      deadline, token, cjson.encode(holder)))
    redis.call('HSET', HOLDERS .. ':' .. holder, RUN_ID .. '|' .. node, token .. '|' .. deadline)
    redis.call('ZADD', HOLDERS, 'NX', NOW + ARGV[6], holder)
    redis.call('HSET', RUN, 'status', 'running', 'running', running + 1)
    if status == 'pending' then
      move_in_index('pending', 'running', created)
    end
    note('started', node, attempt)
    redis.call('ZADD', LIVE, NOW + 1000, RUN_ID)
    local told = {attempt, rec.generation or 0, '', scheduled or ''}
    return {'run', table.concat(told, ' '), '', unpack(#ARGV > 10 and redis.call('HMGET', OUTPUTS, unpack(ARGV, 11)) or {})}
  end
end

-- A claim where nothing is out of the ordinary: a node of the run's position that is ready, without limits, pages or items.
-- It is put in front of claim.lua, whose KEYS and ARGV it has, and writes and answers what that does; making the vocabulary
-- of the transitions costs more than all of its commands. Everything else is left to what stands behind it.
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
    local clock = redis.call('TIME')
    local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
    rec = {state = 'running', attempt = rec.attempt + 1, generation = rec.generation, since = rec.since, token = token,
      holder = holder, deadline = now + timeout, started = now}
    redis.call('HSET', NODES, node, cjson.encode(rec))
    redis.call('HSET', HOLDERS .. ':' .. holder, RUN_ID .. '|' .. node, token .. '|' .. string.format('%.0f', rec.deadline))
    redis.call('ZADD', HOLDERS, 'NX', now + ARGV[6], holder)
    redis.call('HSET', RUN, 'status', 'running', 'running', running + 1)
    if status == 'pending' then
      redis.call('ZREM', INDEX .. ':status:pending', RUN_ID)
      redis.call('ZADD', INDEX .. ':status:running', created, RUN_ID)
    end
    redis.call('XADD', HISTORY, 'MAXLEN', '~', history_limit, '*', 'event', 'started', 'node', node, 'attempt', rec.attempt)
    redis.call('ZADD', LIVE, now + 1000, RUN_ID)
    local told = {rec.attempt, rec.generation or 0, '', scheduled or ''}
    return {'run', table.concat(told, ' '), '', unpack(#ARGV > 10 and redis.call('HMGET', OUTPUTS, unpack(ARGV, 11)) or {})}
  end
end

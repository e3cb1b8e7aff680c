-- A commit where nothing is out of the ordinary: the first attempt of a single node, and behind it another one or the end
-- of a run that has no maps and no pages. It is put in front of commit.lua, for the reason that claim_fast.lua gives; it
-- has its KEYS and ARGV and writes and answers what that does. Everything else is left to what stands behind it.
local position, key, behind, follower = unpack(ARGV, 11, 14)
if (position or '') ~= '' then
  local RUN_ID, node, token, output, follows, message = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6] == '1', ARGV[9]
  local RUN, NODES, OUTPUTS, FAILURES, HISTORY, PLAN, LIVE, TIMERS, HOLDERS, EXPIRING, EVENTS, INDEX = unpack(KEYS, 1, 12)
  local status, plan, epoch, at, open, won, running, seq, detached, verdict, history_limit, created, retention, flow, idem =
    unpack(redis.call('HMGET', RUN, 'status', 'plan', 'epoch', 'position', 'open', 'won', 'running', 'seq', 'detached',
      'verdict', 'history_limit', 'created', 'retention', 'flow', 'idem'))
  local records = redis.call('HMGET', NODES, node, follower)
  local rec = records[1] and cjson.decode(records[1]) or {}
  if status == 'running' and (verdict or '') == '' and epoch == '1' and at == position and open == '1' and output ~= ''
    and string.sub(PLAN, -#plan) == plan and rec.state == 'running' and rec.token == token and rec.attempt == 1
    and not rec.throttled and not records[2] and (message == '' or ARGV[10] == follower) then
    local clock = redis.call('TIME')
    local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
    local instant, holder, ends = string.format('%.0f', now), rec.holder, follower == ''
    rec.state, rec.stored, rec.ended, rec.seq, rec.token, rec.holder, rec.deadline =
      'succeeded', token, now, seq + 1, nil, nil, nil
    local function note(...)
      redis.call('XADD', HISTORY, 'MAXLEN', '~', history_limit, '*', 'event', ...)
    end
    redis.call('HSET', OUTPUTS, key, output)
    redis.call('HDEL', HOLDERS .. ':' .. holder, RUN_ID .. '|' .. node)
    note('succeeded', 'node', node, 'attempt', 1)
    if not ends then
      local celery_goes_on = follows and detached ~= '1' and message == ''
      redis.call('HSET', NODES, node, cjson.encode(rec), follower,
        string.format('{"state":"ready","attempt":0,"since":%s,"generation":0}', instant))
      redis.call('HSET', RUN, 'running', running - 1, 'seq', seq + 1, 'position', behind, 'open', 1, 'won', 0,
        'announced', celery_goes_on and -1 or behind, 'detached', '0')
      redis.call('ZADD', LIVE, now + 1000, RUN_ID)
      if message ~= '' then
        redis.call('LPUSH', KEYS[17], (string.gsub(message, '@since@', instant)))
      end
      return (celery_goes_on or message ~= '') and {'stored'} or {'stored', 'step', tonumber(behind), instant, '0', follower}
    end
    redis.call('HSET', NODES, node, cjson.encode(rec))
    redis.call('HSET', RUN, 'running', running - 1, 'seq', seq + 1, 'open', 0, 'won', won + 1, 'finished', instant,
      'status', 'succeeded')
    redis.call('ZREM', INDEX .. ':status:running', RUN_ID)
    redis.call('ZADD', INDEX .. ':status:succeeded', created, RUN_ID)
    note('run-succeeded', 'node', '', 'attempt', 0)
    redis.call('ZREM', LIVE, RUN_ID)
    redis.call('ZREM', TIMERS, RUN_ID .. '|')
    for _, own in ipairs({RUN, NODES, OUTPUTS, FAILURES, HISTORY}) do
      redis.call('PEXPIRE', own, retention)
    end
    if (idem or '') ~= '' then
      redis.call('PEXPIRE', idem, retention)
    end
    redis.call('ZADD', EXPIRING, now + retention, 'succeeded|' .. flow .. '|' .. RUN_ID)
    local kept = math.max(tonumber(redis.call('HGET', PLAN, 'kept') or 0), now + retention)
    redis.call('HSET', PLAN, 'kept', string.format('%.0f', kept))
    if redis.call('HINCRBY', PLAN, 'live', -1) <= 0 and redis.call('HEXISTS', PLAN, 'announced') == 0 then
      redis.call('PEXPIREAT', PLAN, string.format('%.0f', kept))
    end
    redis.call('XADD', EVENTS, 'MAXLEN', '~', 10000, '*', 'event', 'succeeded', 'run', RUN_ID, 'flow', flow,
      'detail', string.format('%.0f', now - created))
    redis.call('PUBLISH', KEYS[15], 'succeeded')
    return {'stored'}
  end
end

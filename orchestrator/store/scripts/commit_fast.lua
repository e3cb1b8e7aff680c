-- A commit where nothing is out of the ordinary: the first attempt of a single node, and behind it another one or the end
-- of a run that has no maps and no pages. It is put in front of commit.lua, for the reason that claim_fast.lua gives; it
-- has its KEYS and ARGV and writes and answers what that does. Everything else is left to what stands behind it.
local position, key, behind, follower = unpack(ARGV, 11, 14)
if (position or '') ~= '' then
  local RUN_ID, node, token, output, follows, message = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6] == '1', ARGV[9]
  local RUN, NODES, OUTPUTS, FAILURES, HISTORY, PLAN, LIVE, TIMERS, HOLDERS, EXPIRING, EVENTS, INDEX, _, _, DONE =
    unpack(KEYS, 1, 15)
  local status, plan, epoch, at, open, won, running, seq, detached, verdict, history_limit, created, retention, flow, idem =
    unpack(redis.call('HMGET', RUN, 'status', 'plan', 'epoch', 'position', 'open', 'won', 'running', 'seq', 'detached',
      'verdict', 'history_limit', 'created', 'retention', 'flow', 'idem'))
  local records = redis.call('HMGET', NODES, node, follower)
  local rec = records[1] and cjson.decode(records[1]) or {}
  if status == 'running' and (verdict or '') == '' and epoch == '1' and at == position and open == '1' and output ~= ''
    and string.sub(PLAN, -#plan) == plan and rec.state == 'running' and rec.token == token and rec.attempt == 1
    and not rec.throttled and not records[2] and (message == '' or ARGV[10] == follower) then
    -- include: instant
    -- include: note
    -- include: succeed
    -- include: records
    local holder, ends = rec.holder, follower == ''
    succeed(rec, token, seq + 1)
    redis.call('HSET', OUTPUTS, key, output)
    redis.call('HDEL', HOLDERS .. ':' .. holder, RUN_ID .. '|' .. node)
    note('succeeded', node, 1)
    if not ends then
      local celery_goes_on = follows and detached ~= '1' and message == ''
      redis.call('HSET', NODES, node, cjson.encode(rec), follower, string.format(READY, instant, '0'))
      redis.call('HSET', RUN, 'running', running - 1, 'seq', seq + 1, 'position', behind, 'open', 1, 'won', 0,
        'announced', celery_goes_on and -1 or behind, 'detached', '0')
      redis.call('ZADD', LIVE, NOW + 1000, RUN_ID)
      if message ~= '' then
        -- include: push
        push(KEYS[17], message)
      end
      return (celery_goes_on or message ~= '') and {'stored'} or {'stored', 'step', tonumber(behind), instant, '0', follower}
    end
    redis.call('HSET', NODES, node, cjson.encode(rec))
    redis.call('HSET', RUN, 'running', running - 1, 'seq', seq + 1, 'open', 0, 'won', won + 1, 'finished', instant,
      'status', 'succeeded')
    -- include: index
    -- include: emit
    -- include: end_run
    move_in_index('running', 'succeeded', created)
    end_run('succeeded', {RUN, NODES, OUTPUTS, FAILURES, HISTORY}, flow, created, retention, idem)
    return {'stored'}
  end
end

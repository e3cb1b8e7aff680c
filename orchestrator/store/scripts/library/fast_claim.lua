-- One node without limits and pages that is ready is claimed. It writes and answers what the library would.
repeat
  if commits > 0 or fast_path == '' or claims > 1 then
    break
  end
  local more = nil
  -- include: load_run
  local node, token = ARGV[FOLLOWERS_AT + 1], ARGV[CLAIMS_AT + 1]
  local text = redis.call('HGET', NODES, node)
  local rec = text and cjson.decode(text)
  if not rec or rec.state ~= 'ready' or rec.arrived or rec.buckets or rec.throttled or rec.lost or rec.first or rec.secret or rec.fresh then
    break
  end

  -- include: instant
  -- include: records
  local attempt, generation = string.format('%d', rec.attempt + 1), string.format('%d', rec.generation or 0)
  local deadline = string.format('%d', NOW + ARGV[FOLLOWERS_AT + 2])
  redis.call('HSET', NODES, node, string.format(RUNNING, attempt, generation, string.format('%d', rec.since), instant, deadline,
    token, cjson.encode(holder)))
  redis.call('HSET', HOLDERS .. ':' .. holder, RUN_ID .. '|' .. node, token .. '|' .. deadline)
  redis.call('ZADD', HOLDERS, 'NX', NOW + lease, holder)
  redis.call('HSET', RUN, 'status', 'running', 'running', running + 1)
  -- include: note
  note('started', node, attempt)
  redis.call('ZADD', LIVE, NOW + 1000, RUN_ID)
  local answer = attempt .. ' ' .. generation .. ' ' .. (scheduled or '') .. ' '

  -- include: answer_values
until true

-- First attempts of nodes without limits and pages are committed, and what is behind the last of them is claimed, made ready
-- or, at the end, the run ended. It writes what the library would, but one entry of the history for all nodes, and leaves the
-- run's next look as it is while this process goes on. It breaks off before it has written anything.
repeat
  if commits == 0 or fast_path ~= 'nodes' and fast_path ~= 'local' and fast_path ~= 'root' or not is_first then
    break
  end
  local more = claims == 0 and behind == '-1' and {'created', 'retention', 'flow', 'idem', 'deadline', 'indexes'} or nil
  -- include: load_run seq open won detached announced
  local left = open - commits
  if left < 0 or left == 0 and (won + commits ~= tonumber(size) or behind == '' or claims == 0 and followers > 1)
    or message_node and message_node ~= ARGV[FOLLOWERS_AT + 1] then
    break
  end
  local ready = left == 0 and followers or 0
  local begun, is_over = claims > 0 and ready or 0, left == 0 and ready == 0
  -- The plan does not say that a run of a schedule has another one behind it.
  if is_over and scheduled and scheduled ~= '' and redis.call('HEXISTS', RUN, 'lane') == 1 then
    break
  end
  local below = nil
  if is_over and fast_path == 'root' then
    -- include: others
    -- include: has_ended
    -- include: few_children
    below = few_children()
    if not below then
      break
    end
  end

  -- What is written is gathered first: who is not plain is found by then.
  local names, found = nil, nil
  if ready == 0 then
    found = redis.call('HMGET', NODES, unpack(ARGV, NODES_AT + 1, NODES_AT + commits))
  else
    names = {unpack(ARGV, NODES_AT + 1, NODES_AT + commits)}
    for number = 1, ready do
      names[commits + number] = ARGV[FOLLOWERS_AT + 2 * number - 1]
    end
    found = redis.call('HMGET', NODES, unpack(names))
  end
  -- include: instant
  -- include: records
  local rows, closed, owner, is_plain = {}, {}, begun > 0 and holder, true
  for number = 1, commits do
    local node, token, text, seq_now = ARGV[NODES_AT + number], ARGV[TOKENS_AT + number], found[number], seq + number
    -- include: fence
    if not rec or ARGV[OUTPUTS_AT + 2 * number] == '' or rec.holder ~= (owner or rec.holder) then
      is_plain = false
      break
    end
    owner = rec.holder
    -- include: succeed
    rows[2 * number - 1], rows[2 * number] = node, cjson.encode(rec)
    closed[number] = RUN_ID .. '|' .. node
  end
  local opened, json = begun > 0 and {}, begun > 0 and cjson.encode(holder)
  for number = 1, ready do
    local node, row = names[commits + number], 2 * (commits + number)
    if found[commits + number] then
      is_plain = false
    elseif begun > 0 then
      local token, deadline = ARGV[CLAIMS_AT + number], string.format('%d', NOW + ARGV[FOLLOWERS_AT + 2 * number])
      rows[row - 1], rows[row] = node, string.format(RUNNING, '1', '0', instant, instant, deadline, token, json)
      opened[2 * number - 1], opened[2 * number] = RUN_ID .. '|' .. node, token .. '|' .. deadline
    else
      rows[row - 1], rows[row] = node, string.format(READY, instant, '0')
    end
  end
  if not is_plain then
    break
  end

  local running_now, continues = running - commits + begun, follows == '1' and detached ~= '1' and not message_node
  redis.call('HSET', OUTPUTS, unpack(ARGV, OUTPUTS_AT + 1, OUTPUTS_AT + 2 * commits))
  redis.call('HSET', NODES, unpack(rows))
  if is_over then
    redis.call('HSET', RUN, 'running', running_now, 'seq', seq + commits, 'open', '0', 'won', size, 'finished', instant,
      'status', 'succeeded')
  elseif ready == 0 then
    redis.call('HSET', RUN, 'running', running_now, 'seq', seq + commits, 'open', left, 'won', won + commits)
  elseif begun == 0 then
    redis.call('HSET', RUN, 'running', running_now, 'seq', seq + commits, 'position', behind, 'open', '1', 'won', '0',
      'announced', continues and '-1' or behind, 'detached', '0')
  else
    -- From node to node mostly nothing else changes.
    local changes, after_join = {'seq', seq + commits, 'position', behind}, continues and '-1' or behind
    local mode = fast_path == 'local' and '1' or '0'
    if running - commits + begun ~= tonumber(running) or tonumber(open) ~= ready or won ~= '0' then
      changes[5], changes[6], changes[7], changes[8], changes[9], changes[10] = 'running', running_now, 'open', ready, 'won', '0'
    end
    if announced ~= after_join or detached ~= mode then
      local last = #changes
      changes[last + 1], changes[last + 2], changes[last + 3], changes[last + 4] = 'announced', after_join, 'detached', mode
    end
    redis.call('HSET', RUN, unpack(changes))
  end
  if begun > 0 then
    redis.call('HSET', HOLDERS .. ':' .. holder, unpack(opened))
  end
  redis.call('HDEL', HOLDERS .. ':' .. owner, unpack(closed))
  -- include: note
  if commits + begun > 1 then
    note('>', table.concat(ARGV, ' ', NODES_AT + 1, NODES_AT + commits), '1',
      begun > 0 and table.concat(names, ' ', commits + 1, commits + begun))
  end
  if begun > 0 then
    local answer = '1 0 ' .. (scheduled or '') .. ' '
    -- include: answer_values
  end
  if commits == 1 then
    note('succeeded', ARGV[NODES_AT + 1], '1')
  end
  if is_over then
    local own_keys, before, after = {RUN, NODES, OUTPUTS, FAILURES, HISTORY, RUN .. ':history'}, 'open', 'succeeded'
    local created, retention, flow, idempotency, deadline, indexes = unpack(values, 13)
    -- include: emit
    -- include: family
    -- include: index
    -- include: end_run
    if below then
      -- include: others
      -- include: keys_of
      -- include: retire_children
      own_keys = keys_of(RUN)
      own_keys[#own_keys + 1], own_keys[#own_keys + 2] = RUN .. ':children', INDEX .. ':children:' .. RUN_ID
      retire_children(below)
    end
    -- include: retire
    return ''
  end
  if ready == 0 then
    return ''
  end
  redis.call('ZADD', LIVE, NOW + 1000, RUN_ID)
  if message_node then
    -- include: push
    push(KEYS[17], string.sub(message, #message_node + 2))
    return ''
  end
  return continues and '' or instant
until true

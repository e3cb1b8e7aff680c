-- The first child of a node of which the plan says nothing unusual: it is started, and the node waits for it. It writes and answers
-- what the library would, and breaks off before it has written anything.
repeat
  if is_plain ~= '1' or number ~= 1 or ARGV[START_AT + LANE] ~= '' or redis.call('HEXISTS', RUN .. ':children', node) == 1 then
    break
  end
  local more = {'flow', 'tags', 'indexes', 'root', 'depth'}
  -- include: load_run
  local flow, tags, indexes, root, depth = unpack(values, 8)
  local text = redis.call('HGET', NODES, node)
  -- include: fence
  depth = tonumber(depth or 0) + 1
  if not rec or rec.holder ~= holder or rec.fresh or rec.ends or depth > most_depth then
    break
  end
  local keys, args = {unpack(KEYS, START_KEYS_AT + 1)}, {unpack(ARGV, START_AT + 1)}
  args[TAGS], args[INDEXES] = tags, indexes or ''
  local started = start(keys, args)
  if started[1] == 'exists' then
    break
  elseif started[1] ~= 'started' then
    return {started[1], started[2]}
  end

  -- include: emit_node
  local note, generation = noted(HISTORY, history_limit), rec.generation or 0
  redis.call('HSET', CHILD, 'parent', RUN_ID, 'parent_node', node, 'root', root or RUN_ID, 'depth', string.format('%.0f', depth))
  redis.call('ZADD', INDEX .. ':children:' .. RUN_ID, instant, id)
  redis.call('HSET', RUN .. ':children', node, string.format('1 %.0f 0 %s', generation, id))
  note('child', node, '1', id)
  rec.state, rec.waits, rec.child, rec.most, rec.since, rec.dropped, rec.outcome = 'waiting', 'child', id, most_bytes, NOW, token, 'waiting'
  rec.token, rec.holder, rec.deadline, rec.lost = nil, nil, nil, nil
  redis.call('HSET', NODES, node, cjson.encode(rec))
  redis.call('HDEL', HOLDERS .. ':' .. holder, RUN_ID .. '|' .. node)
  note('waits', node, '1', 'child')
  emit_node('waits', flow, node, rec, 'child')
  redis.call('ZADD', LIVE, NOW + 1000, RUN_ID)
  return {'waiting', claim_first(started)}
until true

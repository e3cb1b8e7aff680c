-- Start the child of a flow node and let the node wait for it, in one step; or, after a resume of the run, wait for the last child
-- again, which is to be resumed if it has ended. Who goes on with the child claims its first node with it. Where nothing is
-- unusual, fast_spawn.lua does it.
-- KEYS    as keys.lua, and behind them those of start.lua
-- ARGV    run_id, node, token, number of the child, its id, which is made from the number; or '' if nobody has announced its flow,
--         how deep children may be nested, most bytes of its result, how long the node waits at most in ms, or 0, ms to the next
--         look for a flow that is not announced, or to the next attempt if the child fails, '1' if the caller asks for a map's
--         next item itself, epoch and position of the node, '1' if the plan says nothing unusual of it; the first node of the
--         child, the token of its claim ('' for none), its timeout in ms and holder of the claims; then as start.lua, without
--         tags, which are the parent's
-- Returns {outcome, what start.lua returned or nothing, what to publish...}: 'waiting', with {..., id, 'claimed'} of the start if
--         the first node is claimed; 'parked' if the flow is not announced (the attempt is given back); 'ended' in a run that is
--         ending, in which nothing is started; {'number', n}: call again with this number; {'too deep', depth}; {'no plan'} and
--         {'evicts', reason} as start.lua; {'fenced'} or {'unknown'}.
-- TTL     none while the run lives. An identical second call answers 'waiting' as long as the node waits, and 'claimed' as long as
--         the claim is held, else 'fenced', and starts nothing.
-- include: keys
local RUN_ID, node, token, number, id, most_depth, most_bytes, lasts, delay, follows, epoch, position, is_plain, first, first_token,
  first_timeout, holder = unpack(ARGV, 1, 17)
local START_KEYS_AT, START_AT, INDEXES, TAGS, LANE = 16, 17, 24, 26, 28  -- places of arguments, the last three among those of start.lua
local CHILD, CHILD_NODES, CHILD_HISTORY, CHILD_LIMIT = KEYS[17], KEYS[18], KEYS[20], ARGV[START_AT + 4]
number, most_depth, most_bytes, lasts, delay, follows = tonumber(number), tonumber(most_depth), tonumber(most_bytes), tonumber(lasts),
  tonumber(delay), follows == '1'
-- include: instant
-- include: records

local function start(KEYS, ARGV)
  -- include: start
end

local function noted(HISTORY, history_limit)
  -- include: note
  return note
end

-- Claim the first node of the child for the caller, if it is ready and the only one.
local function claim_first(started)
  if first_token == '' or #started ~= 7 then
    return started
  end
  local deadline = string.format('%d', NOW + first_timeout)
  redis.call('HSET', CHILD_NODES, first, string.format(RUNNING, '1', '0', instant, instant, deadline, first_token, cjson.encode(holder)))
  redis.call('HSET', CHILD, 'status', 'running', 'running', '1')
  redis.call('HSET', HOLDERS .. ':' .. holder, id .. '|' .. first, first_token .. '|' .. deadline)
  noted(CHILD_HISTORY, CHILD_LIMIT)('started', first, '1')
  return {started[1], id, 'claimed'}
end

-- include: fast_spawn
-- include: transition

-- The claim of the first node, if an earlier call has made it and it is held.
local function held_first(child)
  local text = child == id and first_token ~= '' and redis.call('HGET', CHILD_NODES, first)
  return text and string.find(text, '"token":"' .. first_token .. '"', 1, true) and {'exists', id, 'claimed'} or {}
end

-- Whether an ancestor has a place in a lane: within it the child needs none.
local function is_within(lane)
  local id = RUN_ID
  while id do
    local own, above = unpack(redis.call('HMGET', children.run_of(id), 'lane', 'parent'))
    if own == lane and redis.call('ZSCORE', INDEX .. ':lane:' .. lane, id) then
      return true
    end
    id = above
  end
  return false
end

local function answer(outcome, started, work)
  local parts = reply(outcome, work)
  table.insert(parts, 2, started)
  return parts
end

local function spawn()
  if not load_run() then
    return {'unknown'}
  end
  local rec, facts = record(node), plan_node(node)
  if rec and rec.state == 'waiting' and rec.dropped == token then
    return answer('waiting', held_first(rec.child), maps.next_item(facts, follows))
  end
  -- include: claimed_record
  if run.verdict then
    end_claim(rec, node)
    return answer('ended', {}, announced(abort.conclude(node, rec, facts, '', 'skipped')))
  end
  if id == '' then
    end_claim(rec, node)
    rec.state, rec.due, rec.attempt, rec.unannounced = 'parked', NOW + delay, rec.attempt - 1, true
    save(node, rec)
    flush()
    note('unannounced', node, 0, facts.child)
    redis.call('ZADD', TIMERS, rec.due, RUN_ID .. '|' .. node)
    detach(facts)
    touch()
    return answer('parked', {}, maps.next_item(facts, follows))
  end

  local count, before = children.last(node), not rec.fresh and children.present(node, rec, facts)
  local epoch, started = before and redis.call('HGET', children.run_of(before), 'epoch'), {}
  if not epoch then
    if number ~= count + 1 then
      return {'number', count + 1}
    end
    local depth = tonumber(redis.call('HGET', RUN, 'depth') or 0) + 1
    if depth > most_depth then
      return {'too deep', depth}
    end
    local keys, args = {unpack(KEYS, START_KEYS_AT + 1)}, {unpack(ARGV, START_AT + 1)}
    local tags, indexes = unpack(redis.call('HMGET', RUN, 'tags', 'indexes'))
    args[TAGS], args[INDEXES] = tags, indexes or ''
    if args[LANE] ~= '' and is_within(args[LANE]) then
      args[LANE] = ''
    end
    started = start(keys, args)
    if started[1] ~= 'started' and started[1] ~= 'exists' then
      return {started[1], started[2]}
    end
    children.adopt(node, rec, facts, number, id)
    note('child', node, rec.attempt, id)
    if is_held() then
      children.call_tree()
    else
      started = claim_first(started)
    end
  end
  end_claim(rec, node)
  detach(facts)
  rec.dropped, rec.outcome, rec.lost, rec.waits, rec.child, rec.most = token, 'waiting', nil, 'child', epoch and before or id, most_bytes
  rec.since, rec.lasts, rec.fresh, rec.delay = NOW, lasts > 0 and lasts or nil, nil, facts.children and delay
  rec.made = facts.children and (rec.made or 0) + 1
  waiting.wait(node, rec, lasts > 0 and NOW + lasts or nil)
  touch()
  if epoch then  -- one that lives still is only waited for
    rec.asked = children.has_ended(redis.call('HGET', children.run_of(before), 'status')) and epoch or nil
    save(node, rec)
    return answer('waiting', {}, children.look(node, rec, facts))
  elseif started[3] == 'skipped' then  -- its lane is full
    return answer('waiting', {}, children.look(node, rec, facts))
  end
  return answer('waiting', started, maps.next_item(facts, follows))
end

local answered = spawn()
flush()
return answered

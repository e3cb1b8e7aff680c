-- Transitions that touch more records of a run than one script may: they are carried out in portions, the first one by the
-- script that begins them, the others by go_on.lua. What is left is the run's field `unfinished`: '<kind> <epoch> <cursor>'.
-- Who gets the work 'more' goes on at once; if it dies the reconciler does, for the run is due for a look within a second.
-- A version without portions knows nothing of the field: what it has done to the run since, `is_left` finds out.

-- Frees the memory of a large key in the background.
local function drop(key, size)
  if size > RECORDS_AT_ONCE then
    redis.call('UNLINK', key)
  elseif size > 0 then
    redis.call('DEL', key)
  end
end

local function drop_list(key) drop(key, redis.call('LLEN', key)) end

local function more()
  touch()
  return {kind = 'more', names = {}}
end

local function pause(kind, ...)
  set_run({unfinished = table.concat({kind, run.epoch, ...}, ' ')})
  return more()
end

local function is_left(kind)
  if kind == 'list' then
    return redis.call('EXISTS', SAGA) == 0
  elseif kind == 'reset' or kind == 'enter' or kind == 'release' then
    return not run.verdict
  end
  return run.verdict and (kind == 'skip' or not run.saga)
end

-- Kind and cursor of what is left of a transition, or nothing.
local function unfinished()
  local kind, epoch, cursor = string.match(run.unfinished or '', '^(%a+) (%d+) (.*)$')
  if kind and epoch == run.epoch and not is_ended() and is_left(kind) then
    return kind, cursor
  end
end

-- What waits at the position of an ending run will not start; from a place among its members on.
local function skip(place)
  local step = plan_step(run.position)
  local kind, names = step_kinds[step.kind], nil
  repeat
    names, place = kind.members(step, place, math.ceil(room / 2))
    room = room - 2 * #names  -- each leaves its wait queues too
    read_records(names)
    for _, name in ipairs(names) do
      abort.skip(name)
    end
  until not place or room <= 0
  if place then
    pause('skip', place)
  end
end

-- What a saga undoes, by why one is made: 'undo' all that succeeded, 'again' what a rollback lacks, 'list' what the list had
-- that was lost.
local function is_wanted(why, node, rec, when)
  if rec.inherited then  -- it is the run's that this one is a fork of
    return false
  end
  if why == 'undo' then
    local is_lost = when == 'started' and (rec.state == 'failed' or rec.state == 'unknown')
    return rec.state == 'succeeded' or is_lost and abort.has_begun(node, rec)
      or (rec.state == 'failed' or rec.state == 'unknown' or rec.state == 'skipped') and plan_fact('children')
        and children.undone_by(node) and children.has_left(node)
  end
  return why == 'again' and (rec.state == 'compensation_failed' or rec.owes and rec.state == 'failed' and children.settled_by(node))
end

-- Nodes that one compensation belongs to, some from a place on: of a map the items.
local function compensated(node, place)
  local facts = plan_node(node)
  if facts.kind ~= 'item' then
    return {node}
  end
  local step = plan_step(facts.step)
  return step_kinds[step.kind].named(step, place, room)
end

local ORDER, LISTED = RUN .. ':order', RUN .. ':listed'

-- Mark what is to be undone; the order of completion is a sorted set until all of it is known.
local function mark(why, at, place, count)
  local sagas, found = plan_fact('sagas'), {}
  while sagas[at] and room > 0 do
    local base, undo, when = unpack(sagas[at])
    local names, behind = compensated(base, place)
    room = room - #names
    read_records(names)
    for _, node in ipairs(names) do
      local rec = record(node)
      local is_new = rec and is_wanted(why, node, rec, when)
      if is_new then
        rec.ended_as = why == 'undo' and rec.state or rec.ended_as
        rec.settles = rec.owes and rec.state == 'failed' or rec.settles
        rec.state = 'compensating'
        save(node, rec)
      end
      if is_new or rec and rec.state == 'compensating' then
        found[#found + 1], found[#found + 2] = rec.seq or 0, rec.settles and children.settled_by(node) or undo .. suffix_of(node)
      end
    end
    at, place = behind and at or at + 1, behind or 0
  end
  flush()
  if #found > 0 then
    count = count + redis.call('ZADD', ORDER, unpack(found))
  end
  return at, place, count
end

-- Make the list of compensations, last completed first: at a place among the plan's compensated nodes, with so many in order
-- and so many of those in the list. The list has its name when it is whole.
local function put_in_order(why, at, place, count, listed)
  if redis.call('ZCARD', ORDER) ~= count then  -- it was lost meanwhile
    at, place, count, listed = 1, 0, 0, 0
    redis.call('DEL', ORDER)
  end
  at, place, count = mark(why, at, place, count)
  if plan_fact('sagas')[at] then
    return pause(why, at, place, count, listed)
  end
  if redis.call('LLEN', LISTED) ~= listed then
    listed = 0
    redis.call('DEL', LISTED)
  end
  if listed < count then
    listed = redis.call('RPUSH', LISTED, unpack(redis.call('ZREVRANGE', ORDER, listed, listed + NAMES_AT_ONCE - 1)))
  end
  if listed < count then
    return pause(why, at, place, count, listed)
  end
  if count > 0 then
    redis.call('RENAME', LISTED, SAGA)
    drop(ORDER, count)
  end
  set_run({saga = '1', saga_at = 1, saga_failed = why == 'list' and run.saga_failed or why == 'undo' and run.owes or '0',
    announced = END})
  return abort.next_compensation()
end

-- Begin a saga, or what is missing of one.
local function begin_saga(why)
  flush()
  drop_list(SAGA)
  drop_list(LISTED)
  drop(ORDER, redis.call('ZCARD', ORDER))
  return put_in_order(why, 1, 0, 0, 0)
end

-- A node that a resume begins anew, if it has not succeeded.
local function reset_node(node, undo)
  local rec, facts = record(node), plan_node(node)
  if not rec or rec.state == 'succeeded' then
    return
  end
  save(node, {state = 'pending', attempt = 0, generation = rec.generation or 0})
  redis.call('HDEL', FAILURES, node)
  if undo and record(undo) then
    erase(undo)
  end
  if facts.paged and rec.state == 'compensated' then
    redis.call('DEL', results_of(node))  -- from its first page again; else the pages that are there stay
    if facts.child then
      redis.call('HDEL', children.LAST, node .. '|')
    end
  end
  if facts.kind == 'item' then
    redis.call('HDEL', results_of(node), index_of(node))
  end
  if facts.key ~= '' then
    redis.call('HDEL', OUTPUTS, facts.key)
  end
end

-- Where the run went behind a step; the end where a decision is to be made again.
local function went_on(step)
  local decision = #step.branches > 0 and record(step.nodes[1])
  return (#step.branches == 0 or decision and decision.choice) and following(step) or END
end

-- The position that the run began at: what a fork has taken over is never begun anew.
local function first() return tonumber(redis.call('HGET', RUN, 'first') or 0) end

-- Along the way that the run went, begin anew what has not succeeded, then enter its first position; from a place among the
-- members of a position on.
local function reset(position, place)
  if redis.call('EXISTS', NODES) == 0 then  -- it never began
    return enter(first())
  end
  local undos = {}
  for _, entry in ipairs(plan_fact('sagas')) do
    undos[entry[1]] = entry[2]
  end
  while position ~= END do
    if room <= 0 then
      return pause('reset', position, place)
    end
    local step = plan_step(position)
    local names, behind = step_kinds[step.kind].named(step, place, math.ceil(room / 2))
    read_records(names)
    local has_records = step.kind == 'map' or place > 0
    for _, node in ipairs(names) do
      local undo = undos[base_of(node)]
      has_records = has_records or record(node)
      reset_node(node, undo and undo .. suffix_of(node))
      room = room - (undo and 2 or 1)
    end
    if not has_records then  -- the run did not come further
      break
    end
    position, place = behind and position or went_on(step), behind or 0
  end
  return enter(first())
end

local function restart() return reset(first(), 0) end

-- Do the next portion of what is left.
local function go_on(kind, cursor)
  local numbers = {}
  for number in string.gmatch(cursor, '%S+') do
    numbers[#numbers + 1] = tonumber(number)
  end
  set_run({unfinished = ''})
  if kind == 'skip' then
    skip(unpack(numbers))
    return abort.when_quiet()
  elseif kind == 'reset' then
    return reset(unpack(numbers))
  elseif kind == 'enter' then
    return enter(unpack(numbers))
  elseif kind == 'release' then
    return pauses.release(unpack(numbers))
  end
  return put_in_order(kind, unpack(numbers))
end

return {drop_list = drop_list, more = more, pause = pause, unfinished = unfinished, skip = skip, begin_saga = begin_saga,
  first = first, restart = restart, go_on = go_on}

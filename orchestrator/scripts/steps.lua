-- How a run gets on: entering a position, joining it, ending early, undoing; what becomes ready is answered to be published.
-- It is put behind run.lua in front of the scripts that name it.

-- The position that follows a step; of a branch, the one that its recorded decision chose.
local function following(step)
  if step.kind ~= 'branch' then
    return step.next
  end
  return step.branches[record(step.nodes[1]).choice + 1]
end

-- Whether an item of the map is there for whoever asks for one.
local function has_more()
  return run.map_next < run.map_count or redis.call('LLEN', AGAIN) > 0
end

-- Messages that ask for an item, so many that the map is worked on at its full width; each goes on by itself.
local function map_work(step, busy)
  local left = math.ceil((run.map_count - run.map_next + redis.call('LLEN', AGAIN)) / step.batch)
  local work = {kind = 'nodes', position = run.position, names = {}}
  for number = 1, math.min(left, step.width - busy) do
    work.names[number] = step.nodes[1]
  end
  return #work.names > 0 and work or nothing()
end

-- One more message for a map, from an attempt that will not ask for another item itself.
local function next_item(facts, goes_on)
  if goes_on or facts.kind ~= 'item' or run.verdict or run.position ~= facts.step or not has_more() then
    return nothing()
  end
  return {kind = 'nodes', position = run.position, names = {plan_step(facts.step).nodes[1]}}
end

-- What to publish for a node that is ready again; an item is repeated by whoever asks for one first.
local function repeated(node, facts)
  if facts.kind == 'item' then
    redis.call('RPUSH', AGAIN, node)
  end
  return {kind = 'nodes', position = run.position, names = {facts.kind == 'item' and base_of(node) or node}}
end

-- Begin to work on the items whose output is not there yet.
local function enter_map(position, step)
  local count, won = record(step.source).choice, redis.call('HLEN', results_of(step.nodes[1]))
  set_run({position = position, open = count - won, won = won, announced = END, detached = '1', map_count = count,
    map_next = 0, map_pulled = NOW, map_again = 0, map_looks = 0})
  touch()
  return run.open > 0 and map_work(step, 0) or nothing()
end

-- All items have ended: their outputs are read together, as one list.
local function leave_map(step)
  local node = step.nodes[1]
  redis.call('HSET', OUTPUTS, plan_node(node).key, '@' .. node .. '|' .. string.format('%.0f', run.map_count))
end

-- Make the members of a position ready, passing over what is already done; past the last position the run succeeds.
local function enter(position)
  while position ~= END do
    local step = plan_step(position)
    local names, open, won = {}, 0, 0
    if step.kind == 'map' then
      local work = enter_map(position, step)
      if work.kind ~= '' then
        return work
      end
      leave_map(step)
    end
    for _, name in ipairs(step.kind ~= 'map' and step.nodes or {}) do
      local rec = record(name)
      if rec and rec.state == 'succeeded' then
        won = won + 1
      else
        open = open + 1
        names[open] = name
        save(name, {state = 'ready', attempt = 0, since = NOW, generation = rec and rec.generation or 0})
      end
    end
    if open > 0 then
      local singles = step.kind == 'parallel'
        and (run.chords ~= '1' or won > 0 or open > LARGE_STEP or run.epoch ~= '1')
      set_run({position = position, open = open, won = won, announced = END, detached = singles and '1' or '0'})
      touch()
      return {kind = 'step', position = position, names = names}
    end
    position = following(step)
  end
  finish('succeeded')
  return nothing()
end

-- Whoever publishes a position announces it, so that a second message for the same work publishes nothing.
local function announced(work)
  if work.kind == 'step' then
    set_run({announced = work.position})
  elseif work.kind == 'saga' then
    set_run({announced = run.saga_at})
  end
  return work
end

-- Those of some nodes that nobody has claimed, with the instant since which the first of them is ready.
local function ready_nodes(kind, step)
  if step.kind == 'map' then
    return map_work(step, run.running)
  end
  local names = step.nodes
  local work = {kind = kind, position = run.position, names = {}}
  for _, name in ipairs(names) do
    local rec = record(name)
    if rec and rec.state == 'ready' then
      work.names[#work.names + 1] = name
      work.since = math.min(work.since or NOW, rec.since)
    end
  end
  return #work.names > 0 and work or nothing()
end

-- The next compensations of the saga.
local function saga_names() return redis.call('LRANGE', SAGA, run.saga_at - 1, run.saga_at - 2 + SAGA_AHEAD) end

-- The rest of the saga, as far as one chain goes, if nobody has claimed its next compensation.
local function saga_work()
  local names = saga_names()
  local rec = record(names[1])
  if rec.state ~= 'ready' then
    return nothing()
  end
  return {kind = 'saga', position = run.saga_at, names = names, since = rec.since}
end

local function undone_by(undo) return plan_node(undo).undoes .. suffix_of(undo) end

-- Make the compensation at saga_at ready; past the last one the run ends with its verdict.
local function next_compensation()
  local undo = redis.call('LINDEX', SAGA, run.saga_at - 1)
  if not undo then
    finish(run.saga_failed == '1' and 'compensation_failed' or run.verdict)
    return nothing()
  end
  save(undo, {state = 'ready', attempt = 0, since = NOW, generation = record(undone_by(undo)).generation or 0})
  touch()
  return saga_work()
end

-- Begin a saga, or what is missing of one.
local function set_saga(names)
  redis.call('DEL', SAGA)
  for _, undo in ipairs(names) do
    redis.call('RPUSH', SAGA, undo)
  end
  set_run({saga = '1', saga_at = 1, saga_failed = '0', announced = END})
  return next_compensation()
end

-- Every node that a compensation belongs to; of a map, every item.
local function undoable(node)
  local facts = plan_node(node)
  if facts.kind ~= 'item' then
    return {node}
  end
  local names, source = {}, record(plan_step(facts.step).source)
  for index = 0, (source and source.choice or 0) - 1 do
    names[#names + 1] = string.format('%s[%d]', node, index)
  end
  return names
end

-- Whether an attempt of a node has started; of a paginated one, whether a page is there.
local function has_begun(node, rec)
  return rec.attempt > 0 or plan_node(node).paged and redis.call('HEXISTS', results_of(node), '0') == 1
end

-- The run is ending and nothing of it runs any more: undo what succeeded, last completed first.
local function begin_saga()
  local undone = {}
  for _, entry in ipairs(plan_fact('sagas')) do
    for _, node in ipairs(undoable(entry[1])) do
      local rec = record(node)
      local lost = rec and (rec.state == 'failed' or rec.state == 'unknown') and has_begun(node, rec)
      if rec and (rec.state == 'succeeded' or (entry[3] == 'started' and lost)) then
        undone[#undone + 1] = {node, entry[2] .. suffix_of(node), rec.seq, rec}
      end
    end
  end
  table.sort(undone, function(one, other) return one[3] > other[3] end)
  local names = {}
  for index, entry in ipairs(undone) do
    entry[4].ended_as, entry[4].state = entry[4].state, 'compensating'
    save(entry[1], entry[4])
    names[index] = entry[2]
  end
  return set_saga(names)
end

local function when_quiet()
  if run.running > 0 then
    touch()
    return nothing()
  end
  return begin_saga()
end

-- Flip the run to ending; the first verdict wins. Waiting members of the position will not start.
local function begin_ending(verdict, failure)
  if run.verdict then
    return
  end
  set_run({verdict = verdict, error = failure})
  set_status('compensating')
  note('run-ending', '', 0, verdict)
  local step = plan_step(run.position)
  redis.call('DEL', AGAIN)
  for _, name in ipairs(step.kind == 'map' and redis.call('SMEMBERS', OPEN) or step.nodes) do
    local rec = record(name)
    if rec and (rec.state == 'ready' or rec.state == 'parked') then
      leave_lines(name, rec)
      redis.call('SREM', OPEN, name)
      rec.state = not has_begun(name, rec) and 'skipped' or (rec.lost and 'unknown' or 'failed')
      rec.seq = next_seq()
      save(name, rec)
      note(rec.state, name, rec.attempt)
    end
  end
end

-- A compensation has ended for good: its node is compensated or not, and the saga goes on.
local function leave_compensation(undo, state)
  local node = undone_by(undo)
  local rec = record(node)
  rec.state = state
  if state == 'compensated' then
    rec.generation = (rec.generation or 0) + 1
  else
    run.saga_failed = '1'
  end
  save(node, rec)
  set_run({saga_at = run.saga_at + 1, saga_failed = run.saga_failed or '0', announced = END})
  return next_compensation()
end

local function failure_of(kind, message, node, attempt)
  return cjson.encode({flow_name = run.flow, node_name = node or cjson.null, attempt = attempt or 0, type = kind,
    message = message, traceback = ''})
end

-- A member has ended for good; the join is counted. Returns what became ready and whether it was the last member.
local function count_join(step, succeeded)
  set_run({open = run.open - 1, won = run.won + (succeeded and 1 or 0)})
  touch()
  if run.open > 0 then
    return nothing(), false
  end
  if run.won < step.require then
    begin_ending('failed', failure_of('orchestrator.errors.RunError',
      string.format('step %s: %d of %d nodes succeeded, %d are required', step.name, run.won,
        step.kind == 'map' and run.map_count or #step.nodes, step.require)))
    return when_quiet(), true
  end
  if step.kind == 'map' then
    leave_map(step)
  end
  return enter(following(step)), true
end

-- A node, decision or compensation has failed or been lost for good.
local function conclude(node, rec, facts, failure, state)
  rec.state, rec.seq, rec.ended = state, next_seq(), NOW
  save(node, rec)
  if rec.admits then
    leave_lines(node, rec)
  end
  redis.call('SREM', OPEN, node)
  note(state, node, rec.attempt)
  if facts.kind == 'compensation' then
    return leave_compensation(node, 'compensation_failed')
  end
  local step = plan_step(facts.step)
  if not run.verdict and step.go_on then
    return count_join(step, false)
  end
  begin_ending('failed', failure)
  return when_quiet()
end

-- The chord of a parallel step will not count this member: from now on only the stored join says who goes on.
local function detach(facts)
  if run.detached ~= '1' and facts.kind == 'node' and plan_step(facts.step).kind == 'parallel' then
    set_run({detached = '1'})
  end
end

-- Celery goes from a step that is not detached to the one that follows it, and to no other: not past steps that an
-- earlier epoch has done.
local function celery_goes_on(facts, was_detached, work)
  return facts.kind ~= 'item' and not was_detached and work.kind == 'step' and work.position == following(plan_step(facts.step))
end

-- What a repeated call has to publish: what the first one made publishable, if nobody has claimed it yet. A position
-- that the first one left to Celery was not announced.
local function left_over(facts, follows)
  if is_ended() then
    return nothing()
  end
  if run.saga then
    return facts.kind == 'compensation' and follows and nothing() or saga_work()
  end
  if run.verdict or facts.step == run.position or (follows and run.announced ~= run.position) then
    return nothing()
  end
  return ready_nodes('nodes', plan_step(run.position))
end

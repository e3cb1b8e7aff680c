-- How a run ends early: its verdict, what will not start any more, and the saga that undoes what succeeded.

-- The next compensations of the saga.
local function saga_names() return redis.call('LRANGE', SAGA, run.saga_at - 1, run.saga_at - 2 + SAGA_AHEAD) end

-- The rest of the saga, as far as one chain goes, if nobody has claimed its next compensation.
local function saga_work()
  local names = saga_names()
  local rec = names[1] and record(names[1])
  if not rec or rec.state ~= 'ready' then
    return nothing()
  end
  return {kind = 'saga', position = run.saga_at, names = names, since = rec.since}
end

local function undone_by(undo) return plan_node(undo).undoes .. suffix_of(undo) end

-- Nodes of a run by state, last completed first; a list that was lost is made from them.
local function nodes_in(state)
  flush()
  local found, all = {}, redis.call('HGETALL', NODES)
  for index = 1, #all, 2 do
    local rec = cjson.decode(all[index + 1])
    if rec.state == state then
      found[#found + 1] = {name = all[index], rec = rec}
    end
  end
  table.sort(found, function(one, other) return (one.rec.seq or 0) > (other.rec.seq or 0) end)
  return found
end

-- The compensation of a node, by what the plan says of it.
local function undo_of(node)
  for _, entry in ipairs(plan_fact('sagas')) do
    if entry[1] == base_of(node) then
      return entry[2] .. suffix_of(node)
    end
  end
end

-- The compensation at saga_at, `is_there` if there is one. Where their list was lost, a new one begins with it.
local function next_undo(is_there)
  local undo = redis.call('LINDEX', SAGA, run.saga_at - 1)
  if undo or not is_there and redis.call('LLEN', SAGA) == run.saga_at - 1 then
    return undo
  end
  for _, entry in ipairs(nodes_in('compensating')) do
    redis.call('RPUSH', SAGA, undo_of(entry.name))
  end
  set_run({saga_at = 1, announced = END})
  return redis.call('LINDEX', SAGA, 0)
end

-- Make the compensation at saga_at ready; past the last one the run ends with its verdict.
local function next_compensation()
  local undo = next_undo()
  if not undo then
    finish.finish(run.saga_failed == '1' and 'compensation_failed' or run.verdict)
    return nothing()
  end
  save_ready(undo, record(undone_by(undo)).generation)
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
  flush()
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
  for _, name in ipairs(step_kinds[step.kind].members(step)) do
    local rec = record(name)
    if rec and (rec.state == 'ready' or rec.state == 'parked') then
      wait_queue.leave(name, rec)
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

-- A node, decision or compensation has failed or been lost for good; `detail` is for the history.
local function conclude(node, rec, facts, failure, state, detail)
  rec.state, rec.seq, rec.ended = state, next_seq(), NOW
  save(node, rec)
  if rec.admits then
    wait_queue.leave(node, rec)
  end
  redis.call('SREM', OPEN, node)
  note(state, node, rec.attempt, detail)
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

return {saga_work = saga_work, next_undo = next_undo, nodes_in = nodes_in, undo_of = undo_of, undone_by = undone_by,
  set_saga = set_saga, has_begun = has_begun, begin = begin_ending, when_quiet = when_quiet,
  leave_compensation = leave_compensation, failure_of = failure_of, conclude = conclude}

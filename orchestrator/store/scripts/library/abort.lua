-- How a run ends early: its verdict, what will not start any more, and the saga that undoes what succeeded.

-- What stands for a child is named by planning.py, with a dot, which no user's name has.
local function is_of_child(undo) return string.find(undo, '.undo', 1, true) end

-- The next compensations of the saga. They end in front of one that waits for a child: no message is sent for it.
local function saga_names()
  local names = redis.call('LRANGE', SAGA, run.saga_at - 1, run.saga_at - 2 + SAGA_AHEAD)
  for number = 2, #names do
    if is_of_child(names[number]) then
      return {unpack(names, 1, number - 1)}
    end
  end
  return names
end

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

-- Make the compensation at saga_at ready; past the last one the run ends with its verdict.
local function next_compensation()
  local undo = redis.call('LINDEX', SAGA, run.saga_at - 1)
  if not undo and redis.call('LLEN', SAGA) ~= run.saga_at - 1 then
    return portions.begin_saga('list')  -- it was lost
  elseif not undo then
    return finish.finish(run.saga_failed == '1' and 'compensation_failed' or run.verdict)
  end
  if is_of_child(undo) then
    return children.begin_undo(undo, undone_by(undo))
  end
  local rec = record(undo)
  if not rec or rec.state ~= 'ready' and rec.state ~= 'running' and rec.state ~= 'parked' then
    save_ready(undo, record(undone_by(undo)).generation)
  end
  touch()
  return saga_work()
end

-- Whether an attempt of a node has started; of a paginated one, whether a page is there.
local function has_begun(node, rec)
  return rec.attempt > 0 or plan_node(node).paged and redis.call('HEXISTS', results_of(node), '0') == 1
end

-- Undo what succeeded, once nothing of the ending run is left to be skipped and nothing runs any more.
local function when_quiet()
  if portions.unfinished() then
    return portions.more()
  end
  if run.running > 0 or run.saga then
    touch()
    return nothing()
  end
  return portions.begin_saga('undo')
end

-- A node of an ending run that has not begun its next attempt will not begin it.
local function skip(name)
  local rec = record(name)
  if rec and rec.state == 'waiting' and rec.child then  -- its end decides, and the node waits on
    flush()
    children.cancel(rec.child)
  elseif rec and (rec.state == 'ready' or rec.state == 'parked' or rec.state == 'paused' or rec.state == 'waiting') then
    local state = rec.state == 'waiting' and waiting.dismiss(name, rec)
    wait_queue.leave(name, rec)
    redis.call('SREM', OPEN, name)
    rec.state = state or not has_begun(name, rec) and 'skipped' or (rec.lost and 'unknown' or 'failed')
    rec.seq = next_seq()
    save(name, rec)
    note(rec.state, name, rec.attempt)
  end
end

-- Flip the run to ending; the first verdict wins. Waiting members of the position will not start.
local function begin_ending(verdict, failure)
  if run.verdict then
    return
  end
  set_run({verdict = verdict, error = failure})
  if run.status == 'pending' and run.seq == 0 and MAY_BE_CHILD and children.is_child() then
    set_run({unbegun = '1'})
  end
  if (run.unfinished or '') ~= '' then
    set_run({unfinished = ''})
  end
  set_status('compensating')
  note('run-ending', '', 0, verdict)
  portions.drop_list(AGAIN)
  if run.queued then  -- nothing of it waits; if it was taken up again, its rollback counts
    lanes.take()
  else
    portions.skip(0)
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

local function late_message(facts) return string.format('it was not done within its deadline of %g s', facts.deadline_ms / 1000) end

-- The deadline of a node has come while it waits for an attempt.
local function miss_deadline(node, rec, facts)
  local failure = failure_of('orchestrator.errors.NodeTimeout', late_message(facts), node, rec.attempt)
  redis.call('HSET', FAILURES, node, failure)
  wait_queue.leave(node, rec)
  rec.bucket = nil
  detach(facts)
  if pauses.has_to_stand(facts) then
    pauses.stand(node, rec, facts)
    return nothing()
  end
  finish.emit_node('failed', run.flow, node, rec)
  return conclude(node, rec, facts, failure, 'failed')
end

return {saga_work = saga_work, next_compensation = next_compensation, has_begun = has_begun, skip = skip, begin = begin_ending,
  when_quiet = when_quiet, leave_compensation = leave_compensation, failure_of = failure_of, conclude = conclude,
  late_message = late_message, miss_deadline = miss_deadline}

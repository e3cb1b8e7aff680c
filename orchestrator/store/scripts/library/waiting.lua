-- Nodes that wait for something from outside of their run, in the state `waiting`: nothing of them runs, no slot and no
-- message is held, and `waits` in their record is the kind of what they wait for. They end as a commit or a fail would end
-- them: complete.lua when something has come, wake.lua when their due instant has.
-- A kind is a line in `kinds`, with functions of (node, rec, facts, ...) that answer what became ready:
--   arrive(name, ...)  something came for a node or a name, with the rest of complete.lua's arguments; answers as complete.lua
--   expire             the due instant of the record has come
--   open               optional: the node waits from now on; may answer an output, with which it has succeeded at once
--   counts             optional: it counts in run.running, as an attempt does that it follows; it is unknown if the run ends
--   is_asked           optional: it stands in the index of what somebody outside is asked for
--   looks              optional: wake.lua asks `expire` at any time; with `counts` the node outlasts the beginning of the end
-- A node begins to wait by `enter`, in the script that makes its position ready, or by `wait`, behind an attempt.
local INBOX = RUN .. ':inbox'
local kinds = {}

local function member_of(node) return RUN_ID .. '|' .. node end
local function index_of_kind(waits) return INDEX .. ':waiting:' .. waits end

-- Let a node wait, until an instant in ms or for as long as it takes. A claim that it had has ended.
local function wait(node, rec, due)
  local kind = kinds[rec.waits]
  if rec.ends then
    due = math.min(due or rec.ends, rec.ends)
  end
  rec.state, rec.due = 'waiting', due
  save(node, rec)
  if due then
    redis.call('ZADD', TIMERS, due, member_of(node))
    wake_leader(due)
  end
  if kind.is_asked then
    redis.call('ZADD', index_of_kind(rec.waits), rec.since, member_of(node))
  end
  if kind.counts then
    set_run({running = run.running + 1})
  end
  note('waits', node, rec.attempt, rec.waits)
  finish.emit_node('waits', run.flow, node, rec, rec.waits)
end

-- The node waits no more: nothing outside of its record says so from now on.
local function leave(node, rec)
  redis.call('ZREM', TIMERS, member_of(node))
  if kinds[rec.waits].is_asked then
    redis.call('ZREM', index_of_kind(rec.waits), member_of(node))
  end
  if kinds[rec.waits].counts then
    set_run({running = run.running - 1})
  end
  rec.waits, rec.due = nil, nil
end

-- Its output is stored, and its join not yet counted.
local function store(node, rec, facts, output)
  local index = index_of(node)
  if index then
    redis.call('HSET', results_of(node), index, output)
  else
    redis.call('HSET', OUTPUTS, facts.key, output)
  end
  finish.emit_node('succeeded', run.flow, node, rec, rec.waits)
  if rec.waits then
    leave(node, rec)
  end
  rec.state, rec.seq, rec.ended = 'succeeded', next_seq(), NOW
  redis.call('HDEL', FAILURES, node)
  if index and not facts.undone then
    erase(node)
  else
    save(node, rec)
  end
  if index then
    redis.call('SREM', OPEN, node)
  else
    note('succeeded', node, rec.attempt)
  end
end

-- End a node as a commit would.
local function succeed(node, rec, facts, output)
  store(node, rec, facts, output)
  if run.verdict then
    return abort.when_quiet()
  end
  local work = count_join(plan_step(facts.step), true)
  return work.kind == '' and maps.next_item(facts) or work
end

-- End a node as a fail without a further attempt would, or as the loss of its last attempt if the state is 'unknown'.
local function fail(node, rec, facts, failure, state)
  redis.call('HSET', FAILURES, node, failure)
  finish.emit_node(state or 'failed', run.flow, node, rec, rec.waits)
  if rec.waits then
    leave(node, rec)
  end
  local work = abort.conclude(node, rec, facts, failure, state or 'failed')
  return work.kind == '' and maps.next_item(facts) or work
end

-- Open a gate of the position that becomes ready; false if it has succeeded at once.
local function enter(node, generation)
  local facts = plan_node(node)
  local rec = {state = 'waiting', waits = facts.kind, attempt = 0, since = NOW, generation = generation or 0}
  wait(node, rec, facts.timeout_ms > 0 and NOW + facts.timeout_ms or nil)
  local output = kinds[rec.waits].open and kinds[rec.waits].open(node, rec, facts)
  if output then
    store(node, rec, facts, output)
  end
  return not output
end

local function unknown_failure(node, rec)
  return abort.failure_of('orchestrator.errors.OutcomeUnknown', 'the run ended while something was going on elsewhere', node,
    rec.attempt)
end

-- The run begins to end: what waits will not go on. Answers the state that it ends in.
local function dismiss(node, rec)
  local state = kinds[rec.waits].counts and 'unknown' or 'skipped'
  if state == 'unknown' then
    redis.call('HSET', FAILURES, node, unknown_failure(node, rec))
  end
  if rec.child then
    flush()
    children.cancel(rec.child)
  end
  finish.emit_node(state, run.flow, node, rec, rec.waits)
  leave(node, rec)
  return state
end

-- An attempt lets its node wait in a run that is ending.
local function fail_late(node, rec, facts)
  local state = kinds[rec.waits].counts and 'unknown' or 'failed'
  local failure = unknown_failure(node, rec)
  rec.waits = nil
  return fail(node, rec, facts, failure, state)
end

-- Put back what the indexes have lost of a node that waits.
local function mend(node, rec)
  if kinds[rec.waits].looks then
    children.mend(node, rec)
  elseif rec.due then
    redis.call('ZADD', TIMERS, 'NX', rec.due, member_of(node))
  end
  if kinds[rec.waits].is_asked then
    redis.call('ZADD', index_of_kind(rec.waits), 'NX', rec.since, member_of(node))
  end
  return kinds[rec.waits].counts
end

local function expire(node, rec)
  return kinds[rec.waits].expire(node, rec, plan_node(node))
end

local function timed_out(node, rec, facts, what)
  local message = string.format('%s did not come within %g s', what, (rec.due - rec.since) / 1000)
  return fail(node, rec, facts, abort.failure_of('orchestrator.errors.NodeTimeout', message, node, rec.attempt))
end

-- include: gates
-- include: callbacks

kinds.child = {counts = true, looks = true, expire = function(node, rec, facts) return children.look(node, rec, facts) end}
kinds.undo = {looks = true, expire = function(node, rec) return children.look_undo(node, rec) end}

return {kinds = kinds, leave = leave, wait = wait, enter = enter, dismiss = dismiss, mend = mend, expire = expire, succeed = succeed, fail = fail,
  fail_late = fail_late, deliver = deliver, close_inbox = close_inbox, unjudged = unjudged}

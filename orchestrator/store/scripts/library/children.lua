-- Children: runs of other flows that nodes of this run have started, each a run of its own in the same Redis. The node waits, in
-- the kind 'child', until its child has ended; in a rollback its compensation waits, in the kind 'undo', until the child is undone.
-- Only the run's own scripts move it: what one asks of another run is a row among the timers, and an answer that says what to
-- call, for who ran it calls it at once. So a call that is lost costs a moment, and one that is made twice has no effect.
-- run:<id>:children has of each node '<number> <generation> <iteration> <id>': how many children it has started, and the last of
-- them; of a node that repeats also '<node>|<number>': each of them, and '<node>|' while its `until` is to be asked of the output
-- of the last one, which stands there.
local LAST, CHILDREN = RUN .. ':children', INDEX .. ':children:' .. RUN_ID
local AGAIN_MS, TREE, AT_ONCE = 1000, ':tree', 500

-- include: others
-- include: has_ended
local function row_of(node) return RUN_ID .. '|' .. node end
local function is_child() return MAY_BE_CHILD and redis.call('HEXISTS', RUN, 'parent') == 1 end

-- How many children a node has started, the id of the last one, and the generation and iteration in which it started that.
local function last(node)
  local number, generation, iteration, id = string.match(redis.call('HGET', LAST, node) or '', '^(%d+) (%d+) (%d+) (.*)$')
  return tonumber(number or 0), id, tonumber(generation), tonumber(iteration)
end

-- The output of an iteration of which `until` is to be asked.
local function unjudged(node) return redis.call('HGET', LAST, node .. '|') end

local function iteration_of(node, facts)
  return facts.repeats and tonumber(redis.call('HGET', results_of(node), ':page') or 0) or 0
end

-- The last child, if it is this iteration's: a resume takes it up.
local function present(node, rec, facts)
  local _, id, generation, iteration = last(node)
  return id and generation == (rec.generation or 0) and iteration == iteration_of(node, facts) and id
end

-- Note the child that start.lua has made.
local function adopt(node, rec, facts, number, id)
  local root, depth = unpack(redis.call('HMGET', RUN, 'root', 'depth'))
  redis.call('HSET', run_of(id), 'parent', RUN_ID, 'parent_node', node, 'root', root or RUN_ID, 'depth',
    string.format('%.0f', (depth or 0) + 1))
  redis.call('ZADD', CHILDREN, instant, id)
  redis.call('HSET', LAST, node, string.format('%.0f %.0f %.0f %s', number, rec.generation or 0, iteration_of(node, facts), id))
  if facts.repeats then
    redis.call('HSET', LAST, node .. '|' .. string.format('%.0f', number), id)
  end
end

-- Let a child end as soon as it can: it has no more time.
local function cancel(id)
  local status, verdict = unpack(redis.call('HMGET', run_of(id), 'status', 'verdict'))
  if status and not has_ended(status) and not verdict then
    redis.call('HSET', run_of(id), 'deadline', instant, 'parent_ends', '1')
    redis.call('ZADD', TIMERS, instant, id .. '|')
    redis.call('ZADD', LIVE, 'XX', instant, id)
    wake_leader(NOW)
  end
end

-- The parts of an output that is stored in parts, see output_parts.py; nothing if they are more than `most` bytes.
local function joined(id, value, most)
  local kind, node, count, rest = string.match(value, '^([@#])([^|]+)|(%d+)(.*)$')
  local parts, bytes = {}, 0
  for first = 0, tonumber(count) - 1, WRITE_AT_ONCE do
    local numbers = {}
    for number = first, math.min(first + WRITE_AT_ONCE, tonumber(count)) - 1 do
      numbers[#numbers + 1] = string.format('%.0f', number)
    end
    for _, part in ipairs(redis.call('HMGET', run_of(id) .. ':results:' .. node, unpack(numbers))) do
      part = kind == '#' and string.sub(part or '[]', 2, -2) or part or 'null'
      if kind == '@' or part ~= '' then
        parts[#parts + 1], bytes = part, bytes + #part + 1
      end
      if bytes > most then
        return nil
      end
    end
  end
  local whole = '[' .. table.concat(parts, ',') .. ']'
  if kind == '@' then
    return whole
  end
  local total, cursor = string.match(rest, '^|(%d+)|(.*)$')
  return '{"items":' .. whole .. ',"final_cursor":' .. cursor .. ',"page_count":' .. count .. ',"total_items":' .. total .. '}'
end

-- The result of a child that succeeded, as JSON; nothing if it has more than `most` bytes.
local function result_of(id, plan, most)
  local key = redis.call('HGET', plan_key(plan), 'result_key')
  local value = key and key ~= '' and redis.call('HGET', run_of(id) .. ':outputs', key)
  local first = value and string.sub(value, 1, 1)
  if first == '@' or first == '#' then
    value = joined(id, value, most)
  end
  return value == nil and nil or (value or 'null')
end

-- What is to be done for another run; who does it calls a script with the plan that the run pins.
local function elsewhere(kind, id, node, plan, epoch) return {kind = kind, names = {id, node, plan, epoch}} end

-- Ask the child for what it has not done yet, now and in a while again.
local function ask(node, kind, id)
  local plan, epoch = unpack(redis.call('HMGET', run_of(id), 'plan', 'epoch'))
  redis.call('ZADD', TIMERS, NOW + AGAIN_MS, row_of(node))
  touch()
  return elsewhere(kind, id, node, plan, epoch)
end

local function failure_of(rec, node, status, error)
  local message = string.format('child run %s ended %s', rec.child, status)
  if error then
    local first = cjson.decode(error)
    message = message .. ': ' .. (first.node_name ~= cjson.null and 'node ' .. first.node_name .. ': ' or '') .. first.type .. ': '
      .. first.message
  end
  return abort.failure_of('orchestrator.errors.RunFailed', message, node, rec.attempt)
end

-- The child of an iteration has succeeded: an attempt says whether it is the last.
local function ask_until(node, rec, output)
  finish.emit_node('over', run.flow, node, rec, rec.waits)
  waiting.leave(node, rec)
  redis.call('HSET', LAST, node .. '|', output)
  save_ready(node, rec.generation)
  touch()
  return {kind = 'nodes', position = run.position, names = {node}}
end

-- Whether the policy lets another child follow. `made` counts those that it is of; a claim that was lost before its child
-- was started is none of them.
local function has_more_children(rec, facts)
  return (rec.made or rec.attempt) < (facts.children or 1) and rec.attempt < facts.attempts
end

-- A child that was started has failed, or had no more time: another one is started in a while, and not that one taken up.
local function try_again(node, rec, facts, failure)
  -- include: of_attempt
  redis.call('HSET', FAILURES, node, failure)
  finish.emit_node('over', run.flow, node, rec, rec.waits)
  waiting.leave(node, rec)
  rec.state, rec.due, rec.fresh = 'parked', NOW + (rec.delay or 0), true
  rec.child, rec.asked, rec.late, rec.lasts, rec.delay = nil, nil, nil, nil, nil
  save(node, rec)
  note('retrying', node, rec.attempt, of_attempt(string.format('%.0f', rec.due - NOW), '', failure))
  redis.call('ZADD', TIMERS, rec.due, row_of(node))
  wake_leader(rec.due)
  touch()
  return maps.next_item(facts)
end

-- Go on behind a child that has ended; answers what became ready.
local function look(node, rec, facts)
  local status, epoch, plan, error, unbegun = unpack(redis.call('HMGET', run_of(rec.child), 'status', 'epoch', 'plan', 'error',
    'unbegun'))
  if status and rec.asked == epoch then
    return ask(node, 'resume', rec.child)
  elseif status and not has_ended(status) then
    if rec.due and rec.due <= NOW then
      rec.late, rec.due = true, nil
      save(node, rec)
      flush()
      cancel(rec.child)
    end
    if rec.due then
      redis.call('ZADD', TIMERS, rec.due, row_of(node))
    else
      redis.call('ZREM', TIMERS, row_of(node))
    end
    return nothing()
  end
  local output = status == 'succeeded' and not rec.late and result_of(rec.child, plan, rec.most)
  if output and #output <= rec.most and not facts.repeats then
    return waiting.succeed(node, rec, facts, output)
  elseif output and #output <= rec.most and not run.verdict then
    return ask_until(node, rec, output)
  end
  local failure = nil
  if output and #output <= rec.most then
    failure = abort.failure_of('orchestrator.errors.RunError', 'the run ended before the next iteration', node, rec.attempt)
  elseif rec.late then
    failure = abort.failure_of('orchestrator.errors.NodeTimeout', string.format('child run %s took longer than its timeout of %g s',
      rec.child, rec.lasts / 1000), node, rec.attempt)
  elseif status == 'succeeded' then
    failure = abort.failure_of('orchestrator.errors.PayloadTooLarge', string.format('the result of child run %s has more than %.0f bytes',
      rec.child, rec.most), node, rec.attempt)
  else
    failure = failure_of(rec, node, status or 'without a trace: its record is gone', error)
  end
  if not run.verdict and (status == 'failed' or status == 'cancelled' and rec.late) and has_more_children(rec, facts) then
    return try_again(node, rec, facts, failure)
  end
  if status == 'compensation_failed' then
    rec.owes = true
    set_run({owes = '1'})
  end
  return waiting.fail(node, rec, facts, failure, run.verdict and unbegun and 'skipped' or 'failed')
end

-- The child that is to be undone next, from a number on, and its epoch; of a node that does not repeat the last child.
local function to_be_undone(node, number)
  local count, id = last(node)
  if not plan_node(node).repeats then
    return id or '', id and redis.call('HGET', run_of(id), 'epoch') or '', 1
  end
  for each = math.min(number or count, count), 1, -1 do
    id = redis.call('HGET', LAST, node .. '|' .. string.format('%.0f', each))
    local status, epoch = unpack(redis.call('HMGET', run_of(id or ''), 'status', 'epoch'))
    -- What a child could not undo is repeated by a resume, and not by this rollback.
    if status == 'succeeded' or status == 'compensation_failed' and run.owes ~= '1' then
      return id, epoch, each
    end
  end
end

-- Whether a node that did not succeed has a child that did: its result was too large, it came too late, or more were to follow.
local function has_left(node)
  if plan_node(node).repeats then
    return to_be_undone(node) ~= nil
  end
  local _, id = last(node)
  return id and redis.call('HGET', run_of(id), 'status') == 'succeeded'
end

-- Undo the child of a node that succeeded, or what its own rollback lacks; `undo` is the compensation that stands for it. Of a
-- node that repeats all children, last first.
local look_undo
function look_undo(undo, rec)
  local status, epoch = unpack(redis.call('HMGET', run_of(rec.child), 'status', 'epoch'))
  if status == 'succeeded' and epoch == rec.asked then
    return ask(undo, 'undo', rec.child)
  elseif status == 'compensation_failed' and epoch == rec.asked then
    return ask(undo, 'resume', rec.child)
  end
  redis.call('ZREM', TIMERS, row_of(undo))
  touch()
  if status and not has_ended(status) then
    return nothing()
  end
  local is_undone = status == 'cancelled' or status == 'failed' or rec.child == '' and plan_node(undo).repeats
  rec.is_missed = rec.is_missed or not is_undone or nil
  if rec.number and rec.number > 1 then
    local id, epoch, number = to_be_undone(plan_node(undo).undoes, rec.number - 1)
    if id then
      rec.child, rec.asked, rec.number = id, epoch, number
      save(undo, rec)
      return look_undo(undo, rec)
    end
  end
  is_undone = not rec.is_missed
  rec.state, rec.waits, rec.seq, rec.ended = is_undone and 'succeeded' or 'failed', nil, next_seq(), NOW
  save(undo, rec)
  if not is_undone then
    local what = status and 'ended ' .. status or 'is gone from Redis'
    redis.call('HSET', FAILURES, undo, abort.failure_of('orchestrator.errors.RunFailed', string.format('child run %s %s', rec.child,
      what), undo))
  end
  note(rec.state, undo, 0, rec.child)
  return abort.leave_compensation(undo, is_undone and 'compensated' or 'compensation_failed')
end

-- The compensation that stands for the child of a node, if there is one.
local function undone_by(node)
  for _, entry in ipairs(plan_fact('sagas')) do
    if entry[1] == base_of(node) then
      return plan_node(entry[2]).child and entry[2] .. suffix_of(node)
    end
  end
end

-- What repeats the rollback that the child of a failed node lacks, also where the node has a compensation of its own: that is
-- for what the node has done.
local function settled_by(node)
  local own = base_of(node) .. '.undo'
  return undone_by(node) or not plan_node(node).repeats and plan_node(own) and own .. suffix_of(node)
end

-- Begin to undo the child of a node, unless that has begun.
local function begin_undo(undo, node)
  local rec = record(undo)
  if not rec or rec.state ~= 'waiting' then
    local id, epoch, number = to_be_undone(node)
    rec = {state = 'waiting', waits = 'undo', attempt = 0, since = NOW, generation = record(node).generation or 0, child = id or '',
      asked = epoch or '', number = number}
    save(undo, rec)
    note('waits', undo, 0, 'undo')
  end
  return look_undo(undo, rec)
end

-- Put back what the timers have lost of a node that waits for a child.
local function mend(node, rec)
  local status, epoch = unpack(redis.call('HMGET', run_of(rec.child), 'status', 'epoch'))
  if not status or has_ended(status) or epoch == rec.asked then
    redis.call('ZADD', TIMERS, 'NX', instant, row_of(node))
    wake_leader(NOW)
  end
end

-- This run has ended for good, lives again, was paused or goes on: its children follow, see `tend`.
local function call_tree()
  redis.call('HDEL', RUN, 'tended')
  redis.call('ZADD', TIMERS, instant, row_of(TREE))
  wake_leader(NOW)
end

local function is_root_over()
  local status = redis.call('HGET', run_of(redis.call('HGET', RUN, 'root')), 'status')
  return not status or has_ended(status)
end

-- This run, a child, has ended: its parent is due. Answers whom to wake.
local function tell_parent()
  if is_root_over() then  -- it was abandoned, and has waited for nobody
    call_tree()
  end
  local parent, node = unpack(redis.call('HMGET', RUN, 'parent', 'parent_node'))
  redis.call('ZADD', TIMERS, instant, parent .. '|' .. node)
  local plan, epoch = unpack(redis.call('HMGET', run_of(parent), 'plan', 'epoch'))
  return plan and elsewhere('parent', parent, node, plan, epoch) or nothing()
end

local keys_of = finish.keys_of
-- include: few_children
-- include: retire_children

-- Keep the children of this run, which has ended, for their retention; answers whether that is all that is to be done.
local function retire_few()
  local found = few_children()
  if found then
    retire_children(found)
  end
  return found ~= nil
end

-- This run, a child, lives again in a new epoch, and has time again.
local function reopen()
  if redis.call('HDEL', RUN, 'retired') == 1 then
    finish.keep()
  end
  redis.call('HDEL', RUN, 'unbegun')
  if redis.call('HDEL', RUN, 'parent_ends') == 1 then
    redis.call('HDEL', RUN, 'deadline')
    run.deadline = false
  end
end

-- Hold this run, a child, while its parent is held, and no longer. Answers what is to be published.
local function follow_parent()
  local held, status = unpack(redis.call('HMGET', run_of(redis.call('HGET', RUN, 'parent')), 'held', 'status'))
  local is_wanted, is_followed = held == '1' and status == 'paused', redis.call('HEXISTS', RUN, 'held_by_parent') == 1
  if is_wanted and not is_held() then
    redis.call('HSET', RUN, 'held_by_parent', '1')
    pauses.hold('the run that started it is paused')
  elseif not is_wanted and is_followed and is_held() then
    return pauses.go_on()
  end
  return nothing()
end

-- Keep this run, if it is a child, as long as its root lives, hold it as long as its parent is held, and let its own children do
-- the same: 500 in a step. Answers what is to be published.
local function tend()
  local work = nothing()
  if is_child() then
    local is_over = is_root_over()
    if is_over and is_ended() and redis.call('HSETNX', RUN, 'retired', '1') == 1 then
      finish.retire()
    elseif not is_over and redis.call('HDEL', RUN, 'retired') == 1 then
      finish.keep()
    end
    if not is_ended() and not run.verdict then
      work = follow_parent()
    end
  end
  local first = tonumber(redis.call('HGET', RUN, 'tended') or 0)
  local ids = redis.call('ZRANGE', CHILDREN, first, first + AT_ONCE - 1)
  for _, id in ipairs(ids) do
    redis.call('ZADD', TIMERS, instant, id .. '|' .. TREE)
    wake_leader(NOW)
  end
  if #ids == AT_ONCE then
    redis.call('HSET', RUN, 'tended', string.format('%.0f', first + AT_ONCE))
  else
    redis.call('HDEL', RUN, 'tended')
    redis.call('ZREM', TIMERS, row_of(TREE))
  end
  return work
end

return {LAST = LAST, CHILDREN = CHILDREN, TREE = TREE, run_of = run_of, is_child = is_child, has_ended = has_ended, last = last, present = present, unjudged = unjudged,
  adopt = adopt, cancel = cancel, look = look, look_undo = look_undo, begin_undo = begin_undo, has_left = has_left, undone_by = undone_by, settled_by = settled_by, mend = mend,
  is_root_over = is_root_over, tell_parent = tell_parent, retire_few = retire_few, call_tree = call_tree, reopen = reopen, tend = tend}

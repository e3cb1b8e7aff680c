-- What others are told of a run: monitors, who waits for it, workers; and what is kept of it when it ends.

-- include: emit
-- include: emit_node
-- include: push

-- include: keys_of

local function own_keys()
  local keys = keys_of(RUN)
  if plan_fact('signals') then
    keys[#keys + 1] = RUN .. ':inbox'
  end
  if plan_fact('children') then
    keys[#keys + 1], keys[#keys + 2] = children.LAST, children.CHILDREN
  end
  for _, node in ipairs(plan_fact('maps') or {}) do
    keys[#keys + 1] = results_of(node)
    keys[#keys + 1] = RUN .. ':items:' .. node
  end
  for _, entry in ipairs(plan_fact('pages') or {}) do
    keys[#keys + 1] = results_of(entry[1])
  end
  return keys
end

-- What is kept of the ended run is kept for its retention from now on.
local function retire()
  local own_keys, flow, retention, idempotency, indexes, after = own_keys(), run.flow, run.retention, run.idem, run.indexes, run.status
  -- include: retire
end

-- It is kept for as long as it takes.
local function keep()
  redis.call('ZREM', EXPIRING, run.status .. '|' .. run.flow .. '|' .. RUN_ID)
  for suffix in string.gmatch(run.indexes or '', '%S+') do
    redis.call('ZREM', INDEX .. ':expiring_tags', suffix .. '|' .. RUN_ID)
  end
  redis.call('PERSIST', PLAN)
  if run.idem ~= '' then
    redis.call('PERSIST', run.idem)
  end
  for _, key in ipairs(own_keys()) do
    redis.call('PERSIST', key)
  end
  redis.call('HINCRBY', PLAN, 'live', 1)
end

-- Answers what is to be done for another run.
local function finish(after)
  is_touched = false
  set_run({finished = NOW})
  if plan_fact('signals') then
    waiting.close_inbox()
  end
  set_status(after)
  if after == 'succeeded' and #(plan_fact('pages') or {}) > 0 then
    pages.move_cursors()
  end
  local flow, created, deadline = run.flow, run.created, run.deadline
  -- include: end_run
  local work = run.lane and lanes.leave() or nothing()
  if MAY_BE_CHILD and children.is_child() then  -- it is kept as long as its root is, see children.lua
    return children.tell_parent()
  end
  retire()
  if plan_fact('children') and not children.retire_few() then
    children.call_tree()
  end
  return work
end

-- Take up an ended run in a new epoch: it lives again, and messages of the epoch before do nothing. The token says who did it.
local function reopen(token)
  run.epoch = string.format('%.0f', tonumber(run.epoch) + 1)
  redis.call('HSET', RUN, 'epoch', run.epoch, 'resumed_by', token)
  if MAY_BE_CHILD and children.is_child() then
    children.reopen()
  else
    keep()
    if plan_fact('children') then
      children.call_tree()
    end
  end
  redis.call('HDEL', RUN, 'finished', 'held', 'paused_at', 'paused_for')  -- a hold ends with the run
  run.held = false
end

return {reopen = reopen, keys_of = keys_of, retire = retire, keep = keep, emit = emit, emit_node = emit_node, own_keys = own_keys, finish = finish, push = push}

-- Look at an unfinished run: which ready nodes nobody has claimed, which claims have no holder, what of its record is gone.
-- What an index has lost is put back: timers, places in a wait queue's index, claims of holders, items, the saga.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 the instant in ms at which a worker with its flow came last, or 0; 3 the place among the open nodes at which this
--         call begins, at first 0, and 4 what an earlier call has seen of those in front of it, at first ''
-- Returns {outcome, epoch, kind, node, detail, ...} with kind 'ready' (detail: the instant it became so, or was sent again),
--         'orphan' (detail: its token), 'awake' (a parked node, or ':admit' of a queued run, that nothing else would wake), 'limit' (detail: a bucket that nobody
--         has announced), 'items' (a map whose open items are not known), 'unjudged' (a gate that waits while a signal in
--         the inbox is not checked; detail: its number), 'gone' (detail: what is gone of the run), 'unfinished'
--         (a transition of which go_on.lua has another portion to do), or at last 'more' (call again with this node and detail
--         as 3 and 4); or {'no plan', epoch}, or {'unknown'}.
-- TTL     taken off the plan. A second call answers the same; only the next look moves. It is due within 5 s while something
--         is ready or runs, else after twice the time, at most 10 minutes. One that a transition sets has no fraction.
-- include: next_look
local SOON_MS = 5000
if not load_run() then
  redis.call('ZREM', LIVE, RUN_ID)
  redis.call('ZREM', TIMERS, RUN_ID .. '|')
  if redis.call('EXISTS', RUN) == 0 then
    for _, status in ipairs({FAMILY .. 'open', 'pending', 'running', 'compensating'}) do
      redis.call('ZREM', INDEX .. ':status:' .. status, RUN_ID)
    end
  end
  return {'unknown'}
end
if is_ended() then
  redis.call('ZREM', LIVE, RUN_ID)
  return {'looked', run.epoch}
end
local due = redis.call('ZSCORE', LIVE, RUN_ID) or 0
redis.call('ZADD', LIVE, 'XX', due, RUN_ID)  -- first: a full Redis refuses it, and so all of this
local answer, next_ms = {'looked', run.epoch}, nil
local function add(kind, node, detail)
  answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = kind, node, detail
end
local function look_within(ms) next_ms = math.min(next_ms or ms, ms) end
local function look_later()
  redis.call('ZADD', LIVE, 'XX', next_ms and look_after(next_ms, 0.5) or look_at_rest(due), RUN_ID)
end
if redis.call('HEXISTS', PLAN, 'text') == 0 then
  next_ms = SOON_MS
  look_later()
  return {'no plan', run.epoch}
end
redis.call('PERSIST', PLAN)
if run.queued then
  local is_called, is_first = lanes.mend()
  if is_called then
    add('awake', lanes.ADMIT, '')
  end
  if is_first then
    look_within(SOON_MS)
  end
  look_later()
  return answer
end
if not run.verdict and run.deadline then
  redis.call('ZADD', TIMERS, 'NX', run.deadline, RUN_ID .. '|')
end
if run.status == 'paused' and redis.call('HEXISTS', RUN, 'held_by_parent') == 1 then
  redis.call('ZADD', TIMERS, 'NX', instant, RUN_ID .. '|' .. children.TREE)
end
local step = run.position ~= END and plan_step(run.position)
local has_records = redis.call('EXISTS', NODES) == 1
if run.saga and has_records and not portions.unfinished() and not redis.call('LINDEX', SAGA, run.saga_at - 1) then
  portions.begin_saga('list')
end
if is_ended() then
  return answer
end
if portions.unfinished() or run.saga and not has_records then
  add(has_records and 'unfinished' or 'gone', '', has_records and '' or 'records of nodes')
  look_within(LOOK_AFTER_MS)
  look_later()
  return answer
end
local place, names, behind = tonumber(ARGV[3]), {}, nil
if run.saga then
  names = {redis.call('LINDEX', SAGA, run.saga_at - 1)}
elseif step then
  names, behind = step_kinds[step.kind].members(step, place, RECORDS_AT_ONCE)
end
read_records(names)
-- The back-off is over when a worker has come that may be the one with code that fits.
local joined = tonumber(ARGV[2])
local function has_joined(sent) return sent and joined > sent end
local is_map = step and step.kind == 'map' and not run.saga
local stalled = step and not run.verdict and not is_held() and step_kinds[step.kind].stalled(step, has_joined)
if stalled and place == 0 then
  add('ready', step.nodes[1], string.format('%.0f', stalled))
  look_within(LOOK_AFTER_MS)
elseif is_map and run.map_next < run.map_count and not is_held() then
  look_within(SOON_MS)
  if run.map_again > NOW then
    look_within(run.map_again - NOW)
  end
end
local seen_running, seen_ms = string.match(ARGV[4], '^(%d+) (%d*)$')
local running, is_missing = tonumber(seen_running or 0), false
next_ms = tonumber(seen_ms) and math.min(next_ms or LONGEST_MS, tonumber(seen_ms)) or next_ms
-- Items to be repeated that are in their list; where it has many, it is not what is lost.
local is_long, repeated = is_map and redis.call('LLEN', AGAIN) > RECORDS_AT_ONCE, {}
for _, name in ipairs(is_map and not is_long and redis.call('LRANGE', AGAIN, 0, -1) or {}) do
  repeated[name] = true
end
for _, name in ipairs(names) do
  local rec = record(name)
  local member = RUN_ID .. '|' .. name
  if not rec then
    local is_over = is_map and (behind or place > 0)  -- among all items that have begun
    is_missing = is_missing or not is_over and (not run.verdict or run.saga)
  elseif rec.state == 'ready' and not is_held() then
    if rec.ends then
      redis.call('ZADD', TIMERS, 'NX', rec.ends, member)
    end
    if plan_node(name).kind == 'item' then
      if NOW - rec.since >= LOOK_AFTER_MS and not is_long and not repeated[name] then
        redis.call('RPUSH', AGAIN, name)
      end
    elseif NOW >= (rec.again or rec.since + LOOK_AFTER_MS) or rec.again and has_joined(rec.sent) then
      add('ready', name, string.format('%.0f', rec.sent or rec.since))
    end
    look_within(math.max(LOOK_AFTER_MS, math.min((NOW - rec.since) / 2, SOON_MS)))
    if rec.again and rec.again > NOW then
      look_within(rec.again - NOW)
    end
  elseif rec.state == 'running' then
    running = running + 1
    if not redis.call('ZSCORE', HOLDERS, rec.holder) then
      add('orphan', name, rec.token)
    elseif redis.call('HEXISTS', HOLDERS .. ':' .. rec.holder, member) == 0 then
      note_claim(rec.holder, name, rec.token .. '|' .. string.format('%.0f', rec.deadline))
    end
    look_within(SOON_MS)
  elseif rec.state == 'waiting' then
    running = running + (waiting.mend(name, rec) and 1 or 0)
    local number = rec.waits == 'signal' and waiting.unjudged(plan_node(name).gate.of)
    if number then
      add('unjudged', name, string.format('%.0f', number))
      look_within(SOON_MS)
    end
  elseif rec.state == 'parked' and not rec.bucket then
    redis.call('ZADD', TIMERS, 'NX', math.min(rec.due, rec.ends or math.huge), member)
  elseif rec.state == 'parked' then
    if rec.ends then
      redis.call('ZADD', TIMERS, 'NX', rec.ends, member)
    end
    if redis.call('HEXISTS', LIMITS, string.match(rec.bucket, '^[^#]+')) == 0 then
      add('limit', name, rec.bucket)
    end
    if redis.call('ZSCORE', LIMITS .. ':line:' .. rec.bucket, member) then
      redis.call('ZADD', LINES, 'NX', NOW, rec.bucket)
    else
      add('awake', name, rec.bucket)
      look_within(LOOK_AFTER_MS)
    end
  end
end

if is_map and run.open > 0 and #names == 0 and place == 0 and (run.running > 0 or run.map_next == run.map_count) then
  add('items', step.nodes[1], '')
elseif is_missing or not behind and run.running > 0 and running == 0 then
  add('gone', '', 'records of nodes')
end
if behind then
  add('more', string.format('%d', behind), string.format('%d %s', running, next_ms and string.format('%d', next_ms) or ''))
  return answer
end
if step and not run.verdict then
  if redis.call('HEXISTS', OUTPUTS, ':input') == 0 then
    add('gone', '', 'outputs')
  elseif is_map and run.map_next < run.map_count and redis.call('EXISTS', RUN .. ':items:' .. step.nodes[1]) == 0 then
    add('gone', '', 'items of map ' .. step.name)
  elseif is_map and redis.call('HLEN', results_of(step.nodes[1])) < run.won then
    add('gone', '', 'outputs of map ' .. step.name)
  end
end
if #answer > 2 then
  look_within(SOON_MS)
end
look_later()
return answer

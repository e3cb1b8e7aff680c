-- The library of every transition of a run: read the run, its plan and its node records, move them, say what to publish.
-- A script that needs it has the keys of keys.lua in front of it, and RUN_ID.
-- Memory: a transition that may be refused when Redis is full writes with HSET first, so that it is refused whole.
local END, LOOK_AFTER_MS, LARGE_STEP, SAGA_AHEAD, WRITE_AT_ONCE = -1, 1000, 50, 20, 1000
local RECORDS_AT_ONCE, NAMES_AT_ONCE = 200, 1000  -- of one run in one script, and a few more; what has more is done in portions
local room = RECORDS_AT_ONCE  -- how many this call may still touch
-- include: instant
local NOW_US = clock[1] * 1000000 + clock[2]
-- include: records
local history_limit = nil
-- include: note

-- include: family
local MAY_BE_CHILD = FAMILY ~= ''  -- most runs need nothing of children.lua
local is_repeat = false  -- whether a commit of this call was carried out before
local run = nil
local plan_cache, records = {}, {}
local changed, saved, texts, noted, is_touched = {}, {}, {}, {}, false  -- what flush has to write

-- Fields of the run that few transitions ask for are read when one does.
local function read_more(_, field)
  local of_map = string.sub(field, 1, 4) == 'map_'
  local names = of_map and {'map_count', 'map_next', 'map_pulled', 'map_again', 'map_looks', 'map_asked', 'map_sent'}
    or {'created', 'retention', 'saga_at', 'flow', 'idem', 'chords', 'saga', 'saga_failed', 'deadline', 'indexes',
      'unfinished', 'held', 'owes', 'lane', 'queued'}
  local values = redis.call('HMGET', RUN, unpack(names))
  for index, name in ipairs(names) do
    if rawget(run, name) == nil then
      run[name] = (of_map or index <= 3) and tonumber(values[index]) or values[index]
    end
  end
  return rawget(run, field)
end

-- False when there is no such run, or when the caller's plan is not the one that the run pins: a forged message.
local function load_run()
  if run then
    return true
  end
  local values = redis.call('HMGET', RUN, 'status', 'plan', 'epoch', 'position', 'open', 'won', 'running', 'seq', 'detached',
    'announced', 'verdict', 'scheduled', 'history_limit')
  if not values[1] or string.sub(PLAN, -#values[2]) ~= values[2] then
    return false
  end
  run = setmetatable({status = values[1], epoch = values[3], position = tonumber(values[4]), open = tonumber(values[5]),
    won = tonumber(values[6]), running = tonumber(values[7]), seq = tonumber(values[8]), detached = values[9],
    announced = tonumber(values[10]) or END, verdict = values[11], scheduled = values[12]}, {__index = read_more})
  history_limit = values[13]
  return true
end

local function set_run(fields)
  for field, value in pairs(fields) do
    run[field], changed[field] = value, value
  end
end

-- A module of the library, made when it is first used: making a function costs as much as calling one.
local function on_demand(module, make)
  setmetatable(module, {__index = function(_, name)
    local made = make()
    setmetatable(module, {__index = made})
    return made[name]
  end})
end

local function is_ended()
  return run.status == 'succeeded' or run.status == 'failed' or run.status == 'cancelled'
    or run.status == 'compensation_failed'
end

-- Nothing of the run was done in an epoch before. With a priority its first epoch is another number, see priority.py.
local function in_first_epoch() return run.epoch == '1' or string.sub(run.epoch, -6) == '000001' end

-- Nothing of a held run starts, and what becomes ready is not published: see pauses.lua.
local function is_held() return run.status == 'paused' and run.held == '1' end

local function plan_fact(field)
  local fact = plan_cache[field]
  if fact == nil then
    local text = redis.call('HGET', PLAN, field)
    fact = text and cjson.decode(text)
    plan_cache[field] = fact
  end
  return fact or nil
end

local function plan_step(position) return plan_fact('step:' .. string.format('%.0f', position)) end
-- An item of a map is named <node>[<index>], and its compensation likewise; what holds for it is its node's.
local function base_of(name) return string.match(name, '^[^%[]+') end
local function index_of(name) return string.match(name, '%[(%d+)%]$') end
local function suffix_of(name) return string.match(name, '%[%d+%]$') or '' end
local function plan_node(name) return plan_fact('node:' .. base_of(name)) end

-- Of the map that the run stands at: outputs by index; items with a record that has not ended; those to be repeated.
local function results_of(node) return RUN .. ':results:' .. base_of(node) end
local OPEN, AGAIN, SAGA = RUN .. ':open', RUN .. ':again', RUN .. ':saga'

local function record(node)
  if records[node] == nil then
    local text = texts[node] or redis.call('HGET', NODES, node)
    records[node] = text and cjson.decode(text) or false
  end
  return records[node]
end

-- Read the records of nodes in one command.
local function read_records(names)
  local found = #names > 0 and redis.call('HMGET', NODES, unpack(names))
  for number, name in ipairs(names) do
    if records[name] == nil and not texts[name] then
      records[name] = found[number] and cjson.decode(found[number]) or false
    end
  end
end

local function save(node, rec) records[node], saved[node], texts[node] = rec, true, nil end
local function save_text(node, text) records[node], saved[node], texts[node] = nil, nil, text end
-- With a deadline, in ms from now, the record has its instant, `ends`, from here to the end of its last attempt.
local function save_ready(node, generation, deadline)
  if deadline then
    save(node, {state = 'ready', attempt = 0, since = NOW, generation = generation or 0, ends = NOW + deadline})
  else
    save_text(node, string.format(READY, instant, generation or 0))
  end
end

local function erase(node)
  records[node], saved[node], texts[node] = false, nil, nil
  redis.call('HDEL', NODES, node)
end

local function touch() is_touched = true end

-- A leader waits for at most a second; it has to know of what comes sooner. One element is enough to wake it.
local function wake_leader(due)
  if due - NOW < LOOK_AFTER_MS and redis.call('LLEN', TIMERS .. ':wake') == 0 then
    redis.call('RPUSH', TIMERS .. ':wake', '1')
  end
end

-- A node that has to end by an instant is woken then, unless an attempt of it runs: that one has a time limit.
local function watch(node, rec)
  local member = RUN_ID .. '|' .. node
  if rec.state == 'ready' or rec.state == 'parked' then
    local due = rec.state == 'parked' and not rec.bucket and math.min(rec.due, rec.ends) or rec.ends
    redis.call('ZADD', TIMERS, due, member)
    wake_leader(due)
  elseif rec.state ~= 'waiting' then
    redis.call('ZREM', TIMERS, member)
  end
end

-- HSET with any number of fields and values in turn.
local function write(key, flat)
  for first = 1, #flat, WRITE_AT_ONCE do
    redis.call('HSET', key, unpack(flat, first, math.min(first + WRITE_AT_ONCE - 1, #flat)))
  end
end

-- Write what was changed so far. It is done once, at the end of every operation, and also in front of what a full Redis
-- would let pass, so that the operation is refused whole.
local function flush()
  local fields, rows, watched = {}, {}, {}
  for field, value in pairs(changed) do
    fields[#fields + 1], fields[#fields + 2] = field, value
  end
  for node in pairs(saved) do
    rows[#rows + 1], rows[#rows + 2] = node, cjson.encode(records[node])
    watched[node] = records[node].ends and records[node] or nil
  end
  for node, text in pairs(texts) do
    rows[#rows + 1], rows[#rows + 2] = node, text
  end
  write(RUN, fields)
  write(NODES, rows)
  for node, rec in pairs(watched) do
    watch(node, rec)
  end
  for _, claim in pairs(noted) do
    if claim.text then
      redis.call('HSET', claim.key, claim.member, claim.text)
    else
      redis.call('HDEL', claim.key, claim.member)
    end
  end
  if is_touched then
    redis.call('ZADD', LIVE, NOW + LOOK_AFTER_MS, RUN_ID)
  end
  changed, saved, texts, noted, is_touched = {}, {}, {}, {}, false
end

local function next_seq()
  set_run({seq = run.seq + 1})
  return run.seq
end

local function set_status(after)
  local was_ended, was = is_ended(), run.status
  set_run({status = after})
  flush()
  if was_ended or is_ended() then
    local flow, created, before = run.flow, run.created, was_ended and was or 'open'
    after = is_ended() and after or 'open'
    -- include: index
  end
  -- What is paused is open too, and in indexes of its own besides.
  if (run.status == 'paused') ~= (was == 'paused') then
    for _, index in ipairs({':status:' .. FAMILY .. 'paused', ':flow:' .. run.flow .. ':' .. FAMILY .. 'paused'}) do
      if run.status == 'paused' then
        redis.call('ZADD', INDEX .. index, run.created, RUN_ID)
      else
        redis.call('ZREM', INDEX .. index, RUN_ID)
      end
    end
  end
end

-- What the caller has to publish, if anything: kind 'step' (a whole position), 'nodes' (singles) or 'saga'; or 'more': it calls
-- go_on.lua first; or what it does for another run: 'parent' (wakes it), 'undo' or 'resume' (a child), see children.lua,
-- or 'next' (wakes it), see lanes.lua.
local function nothing() return {kind = '', names = {}} end

local function reply(outcome, work)
  if work.kind == '' or work.kind ~= 'more' and is_held() then
    return {outcome}
  end
  local answer = {outcome, work.kind, work.position or END, string.format('%.0f', work.since or NOW), run.detached or '0'}
  for _, name in ipairs(work.names) do
    answer[#answer + 1] = name
  end
  return answer
end

-- Note in the record of a process that a claim is open, or, without its token and deadline, that it is not.
local function note_claim(holder, node, text)
  local key, member = HOLDERS .. ':' .. holder, RUN_ID .. '|' .. node
  noted[key .. ' ' .. member] = {key = key, member = member, text = text}
end

-- The claim's slots are free, and who stands in line for one is due now.
local function leave_slots(rec, node)
  for _, bucket in ipairs(plan_node(node).slots or {}) do
    flush()
    redis.call('ZREM', LIMITS .. ':held:' .. bucket, RUN_ID .. '|' .. node .. '|' .. rec.token)
    if redis.call('EXISTS', LIMITS .. ':line:' .. bucket) == 1 then
      redis.call('ZADD', LINES, NOW, bucket)
      wake_leader(NOW)
    end
  end
end

local function end_claim(rec, node)
  set_run({running = run.running - 1})
  note_claim(rec.holder, node, nil)
  leave_slots(rec, node)
  rec.token, rec.holder, rec.deadline = nil, nil, nil
end

-- From the second attempt on, a record has the instant at which its node first became ready, and the time in attempts.
local function add_busy(rec)
  rec.first, rec.busy = rec.first or rec.since, (rec.busy or 0) + NOW - rec.started
end

-- Modules of the library that few operations need.
local step_kinds, maps, pages, limits, wait_queue, waiting, children, lanes, unpublished, portions, pauses, abort, finish =
  {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}
-- include: steps
-- module: step_kinds
-- module: maps
-- module: pages
-- module: limits
-- module: wait_queue
-- module: waiting
-- module: children
-- module: lanes
-- module: unpublished
-- module: portions
-- module: pauses
-- module: abort
-- module: finish

-- Create a run at its first position, at most once for a run id, for an idempotency key and for an instant of a schedule.
-- KEYS    see keys.py, Keys.of_start; behind them those that an argument names by their place
-- ARGV    in the order of their names below, then the nodes of the first position: retention and timeout in ms (0: none),
--         history_limit in entries, chords '1' if they can be used, limits (JSON object: bucket to numbers), is_parallel and
--         is_local '1' if the first position is a parallel step and if no chord joins it, for one process works on it or a
--         gate is in it, undoes '1' if the plan has compensations, epoch with which it begins, see priority.py, tags as JSON. Where there is one, else '': input (JSON),
--         plan_fields (JSON object), idempotency_key (its place in KEYS) with the digest of the input and its text (key, cut), indexes of its tags (ends
--         of their names), schedule with schedules_key (place in KEYS), scheduled (nominal instant in ms) and
--         overlap ('skip': not while its last run lives; 'queue': behind that one, in the lane of the schedule), begins (instant in ms before which nothing of it is ready, or '+' and
--         ms from now), queue_key (place in KEYS) with the message to push, '@since@' in it for the instant, traceparent of the
--         caller's span, lane in which a place is taken. A gate among the nodes is '<node>|<kind>|<how long it waits in ms, or 0>', see waiting.lua;
--         a node with a deadline '<node>|deadline|<ms>'.
-- Returns {outcome, run id, ...}: 'started' and what to publish, 'exists', 'conflict', 'no plan' (call again with it),
--         of a schedule 'ticked' (the instant is not new) or 'skipped' (its last run lives, or its queue is full), and 'evicts' with the reason
--         in place of the run id: the server throws keys of live runs away, as the reconciler has found.
--         {'started', run id} is of a run that begins later: see lanes.lua; with 'skipped' behind it, of one that has ended, as
--         its lane is full.
-- TTL     none while the run lives. An identical second call answers 'exists' and writes nothing.
local flow, plan_hash, retention, history_limit, chords, timeout, limits, is_parallel, is_local, undoes, epoch, RUN_ID, input,
  plan_fields, digest, idempotency_key, schedule, schedules_key, scheduled, overlap, queue_key, message, key, indexes,
  begins, tags, traceparent, lane = unpack(ARGV, 1, 28)
local RUN, NODES, OUTPUTS, HISTORY, PLAN, LIVE, TIMERS, EVENTS, INDEX, LIMITS, EVICTS = unpack(KEYS, 1, 11)
local LOOK_AFTER_MS, LARGE_STEP, FIRST, WRITE_AT_ONCE = 1000, 50, 29, 1000  -- the first and the last as in transition.lua
local MOST_QUEUED = 100  -- ticks of a schedule, see triggers.py
local idempotency, schedules = KEYS[tonumber(idempotency_key)], KEYS[tonumber(schedules_key)]
if redis.call('EXISTS', RUN) == 1 then
  return {'exists', RUN_ID}
end
if idempotency then
  local first = redis.call('HMGET', idempotency, 'run', 'digest')
  if first[1] then
    return {first[2] == digest and 'exists' or 'conflict', first[1]}
  end
end
if schedules then
  if tonumber(redis.call('HGET', schedules, schedule) or 0) >= tonumber(scheduled) then
    return {'ticked', RUN_ID}
  end
  local last = redis.call('HGET', schedules, schedule .. '|run')
  local is_full = overlap == 'queue' and redis.call('ZCARD', INDEX .. ':lane:' .. lane .. ':queued') >= MOST_QUEUED
  if is_full or overlap == 'skip' and last and redis.call('ZSCORE', LIVE, last) then
    redis.call('HSET', schedules, schedule, scheduled)
    return {'skipped', last}
  end
end
local evicts = redis.call('GET', EVICTS)
if evicts then
  return {'evicts', evicts}
end
if redis.call('HEXISTS', PLAN, 'text') == 0 then
  if plan_fields == '' then
    return {'no plan', RUN_ID}
  end
  for field, value in pairs(cjson.decode(plan_fields)) do
    redis.call('HSET', PLAN, field, value)
  end
end
-- include: instant
-- include: records
-- include: note
-- include: emit
local function set_timer(node, lasts)
  redis.call('ZADD', TIMERS, string.format('%.0f', NOW + lasts), RUN_ID .. '|' .. node)
  if lasts < LOOK_AFTER_MS and redis.call('LLEN', TIMERS .. ':wake') == 0 then  -- as in transition.lua
    redis.call('RPUSH', TIMERS .. ':wake', '1')
  end
end

-- A gate waits from the start on, as waiting.lua lets it. Answers its record.
local function begin_waiting(gate, waits, lasts)
  local rec = {state = 'waiting', waits = waits, attempt = 0, since = NOW, generation = 0}
  if lasts > 0 then
    rec.due = NOW + lasts
    set_timer(gate, lasts)
  end
  if waits ~= 'sleep' then
    redis.call('ZADD', INDEX .. ':waiting:' .. waits, NOW, RUN_ID .. '|' .. gate)
  end
  note('waits', gate, '0', waits)
  -- include: emit_node
  emit_node('waits', flow, gate, rec, waits)
  return cjson.encode(rec)
end

local ready, open = string.format(READY, instant, '0'), #ARGV - FIRST + 1
-- A parallel step is published by the worker that the client's message reaches; see steps.lua for what detaches it.
local announced = is_parallel == '1' and '-1' or '0'
local due = begins ~= '' and (string.sub(begins, 1, 1) == '+' and NOW + begins or tonumber(begins)) or 0
local is_delayed = due > NOW
local detached = is_parallel == '1' and (chords ~= '1' or open > LARGE_STEP or is_local == '1' or is_delayed) and '1' or '0'
local queued, is_skipped, full, place = false, false, '', ''
if lane ~= '' then
  -- include: lane
  local max_runs, last = max_runs_of(lane), overlap == 'queue' and redis.call('HGET', schedules, schedule .. '|run')
  -- One that was started before the schedule queued its runs has a place, too; where it has ended, has_place finds that.
  if last and redis.call('ZSCORE', LIVE, last) and redis.call('HGET', run_of(last), 'lane') ~= lane then
    redis.call('ZADD', going_on(lane), NOW, last)
  end
  if is_delayed then
    queued = '0'
  elseif redis.call('EXISTS', queue_of(lane)) == 1 or not has_place(lane, max_runs.most) then
    is_skipped, full = max_runs.when_full == 'skip', max_runs.full
    queued = not is_skipped and string.format('%.0f', clock[1] * 1000000 + clock[2])
  end
  place = queued and queue_of(lane) or going_on(lane)
end
local begins_now = not is_delayed and not queued and not is_skipped
local deadline = tonumber(timeout) > 0 and begins_now and string.format('%.0f', NOW + timeout)
local more = deadline and {'deadline', deadline} or {}
if key ~= '' then
  more[#more + 1], more[#more + 2] = 'key', key
end
if indexes ~= '' then
  more[#more + 1], more[#more + 2] = 'indexes', indexes
end
if traceparent ~= '' then
  more[#more + 1], more[#more + 2] = 'traceparent', traceparent
end
if undoes == '1' then
  more[#more + 1], more[#more + 2] = 'undoes', '1'
end
if lane ~= '' then
  more[#more + 1], more[#more + 2] = 'lane', lane
end
if queued then
  more[#more + 1], more[#more + 2] = 'queued', queued
end
if is_delayed then
  -- Parked, as any worker knows it: the timer of each node wakes it, and wake.lua begins the time of the run.
  begins = string.format('%.0f', due)
  more[#more + 1], more[#more + 2] = 'begins', begins
  ready = string.format('{"state":"parked","attempt":0,"since":%s,"due":%s,"generation":0}', instant, begins)
end
redis.call('HSET', RUN, 'status', 'pending', 'flow', flow, 'plan', plan_hash, 'epoch', epoch, 'position', '0', 'open', open,
  'won', '0', 'running', '0', 'seq', '0', 'tags', tags, 'retention', retention, 'history_limit', history_limit, 'chords', chords,
  'created', instant, 'timeout', timeout, 'scheduled', scheduled, 'idem', not is_skipped and idempotency or '',
  'announced', announced, 'detached', detached, unpack(more))
redis.call('HINCRBY', PLAN, 'live', '1')
redis.call('PERSIST', PLAN)
redis.call('HSET', OUTPUTS, ':input', input)
note('run-started')
local rows, names = {}, {}
for at = FIRST, (queued or is_skipped) and 0 or #ARGV do
  local gate, waits, lasts = string.match(ARGV[at], '^([^|]+)|(%a+)|(%d+)$')
  if waits == 'deadline' and not is_delayed then
    names[#names + 1] = gate
    rows[#rows + 1], rows[#rows + 2] = gate, cjson.encode({state = 'ready', attempt = 0, since = NOW, generation = 0, ends = NOW + lasts})
    set_timer(gate, tonumber(lasts))
  elseif gate and not is_delayed then
    rows[#rows + 1], rows[#rows + 2] = gate, begin_waiting(gate, waits, tonumber(lasts))
  else
    names[#names + 1] = gate or ARGV[at]
    rows[#rows + 1], rows[#rows + 2] = gate or ARGV[at], ready
  end
  if #rows == WRITE_AT_ONCE or at == #ARGV then
    redis.call('HSET', NODES, unpack(rows))
    rows = {}
  end
end
if #names < open and not queued and not is_skipped then
  redis.call('HSET', RUN, 'status', 'running')
end
if idempotency and not is_skipped then
  redis.call('HSET', idempotency, 'run', RUN_ID, 'digest', digest)
end
if limits ~= '{}' then
  for bucket, numbers in pairs(cjson.decode(limits)) do
    redis.call('HSETNX', LIMITS, bucket, numbers)
  end
end
-- include: family
redis.call('ZADD', INDEX .. ':flow:' .. flow .. ':' .. FAMILY .. 'open', instant, RUN_ID)
redis.call('ZADD', INDEX .. ':status:' .. FAMILY .. 'open', instant, RUN_ID)
for suffix in string.gmatch(indexes, '%S+') do
  redis.call('ZADD', INDEX .. ':' .. suffix, instant, RUN_ID)
end
for _, name in ipairs(is_delayed and names or {}) do
  set_timer(name, due - NOW)
end
if deadline then
  set_timer('', tonumber(timeout))
end
if queued == '0' then
  set_timer(':admit', due - NOW)
elseif queued then
  redis.call('ZADD', place, queued, RUN_ID)
elseif lane ~= '' and not is_skipped then
  redis.call('ZADD', place, NOW, RUN_ID)
end
if schedules then
  redis.call('HSET', schedules, schedule, scheduled, schedule .. '|run', RUN_ID)
end
emit('started', flow)
redis.call('ZADD', LIVE, NOW + LOOK_AFTER_MS, RUN_ID)
if is_skipped then  -- it has ended as soon as it was created
  redis.call('HSET', RUN, 'status', 'cancelled', 'verdict', 'cancelled', 'finished', instant, 'error', cjson.encode({flow_name = flow,
    node_name = cjson.null, attempt = 0, type = 'orchestrator.errors.RunCancelled', message = full, traceback = ''}))
  local after, before, created, DONE = 'cancelled', 'open', NOW, string.match(EVENTS, '^.*:') .. 'done:' .. RUN_ID
  -- include: index
  -- include: end_run
  if FAMILY == '' then  -- a child is kept as long as its root, see children.lua
    local own_keys, idempotency, EXPIRING = {RUN, NODES, OUTPUTS, HISTORY}, nil, INDEX .. ':expiring'
    -- include: retire
  end
  return {'started', RUN_ID, 'skipped'}
elseif not begins_now then
  return {'started', RUN_ID}
end
if message ~= '' then
  -- include: push
  push(KEYS[tonumber(queue_key)], message)
  return {'started', RUN_ID}
end
local answer = {'started', RUN_ID, 'step', 0, instant, detached}
for _, name in ipairs(names) do
  answer[#answer + 1] = name
end
return answer

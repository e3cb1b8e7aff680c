-- Create a run at its first position, at most once for a run id and for an idempotency key.
-- KEYS    see keys.py, Keys.of_start
-- ARGV    1 run id, 2 flow, 3 plan hash, 4 the plan's fields as a JSON object or '', 5 input (JSON) or '', 6 digest of the
--         input, 7 tags (JSON), 8 retention in ms, 9 history entries, 10 '1' if chords can be used, 11 timeout in ms or 0,
--         12 '1' with an idempotency key, 13 scheduled instant in ms or '', 14 limits (JSON object: bucket to numbers),
--         15 schedule or '' (13 is then its slot), 16 what to do while its last run lives: 'skip' or 'allow',
--         17 the first message, with '@since@' for the instant, to be pushed here; or '' if the caller sends it,
--         18 '1' if the first position is a parallel step, 19 '1' if one process works on that together, 20... its nodes
-- Returns {outcome, run id, ...}: 'started' and what to publish, 'exists', 'conflict', 'no plan' (call again with it),
--         and of a schedule 'ticked' (the slot is not new) or 'skipped' (its last run lives).
-- TTL     none while the run lives. An identical second call answers 'exists' and writes nothing.
local RUN, NODES, OUTPUTS, HISTORY, PLAN, LIVE, TIMERS, EVENTS, INDEX, LIMITS, IDEMPOTENCY, SLOTS, QUEUE = unpack(KEYS)
local run_id, flow, plan_hash, plan_fields, input, digest, tags, retention, history_limit, chords, timeout, has_key,
  scheduled, limits, schedule, overlap, message, is_parallel, is_local = unpack(ARGV, 1, 19)
local LOOK_AFTER_MS, EVENTS_KEPT, LARGE_STEP, FIRST, WRITE_AT_ONCE = 1000, 10000, 50, 20, 1000  -- as in transition.lua
if redis.call('EXISTS', RUN) == 1 then
  return {'exists', run_id}
end
if has_key == '1' then
  local first = redis.call('HMGET', IDEMPOTENCY, 'run', 'digest')
  if first[1] then
    return {first[2] == digest and 'exists' or 'conflict', first[1]}
  end
end
if schedule ~= '' then
  if tonumber(redis.call('HGET', SLOTS, schedule) or 0) >= tonumber(scheduled) then
    return {'ticked', run_id}
  end
  local last = redis.call('HGET', SLOTS, schedule .. '|run')
  if overlap == 'skip' and last and redis.call('ZSCORE', LIVE, last) then
    redis.call('HSET', SLOTS, schedule, scheduled)
    return {'skipped', last}
  end
end
if redis.call('HEXISTS', PLAN, 'text') == 0 then
  if plan_fields == '' then
    return {'no plan', run_id}
  end
  for field, value in pairs(cjson.decode(plan_fields)) do
    redis.call('HSET', PLAN, field, value)
  end
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local instant = string.format('%.0f', now)
local ready = string.format('{"state":"ready","attempt":0,"since":%s,"generation":0}', instant)
local open = #ARGV - FIRST + 1
-- A parallel step is announced by the worker that the client's message reaches; see steps.lua for what detaches it.
local announced = is_parallel == '1' and -1 or 0
local detached = is_parallel == '1' and (chords ~= '1' or open > LARGE_STEP or is_local == '1') and '1' or '0'
local deadline = tonumber(timeout) > 0 and string.format('%.0f', now + timeout)
redis.call('HSET', RUN, 'status', 'pending', 'flow', flow, 'plan', plan_hash, 'epoch', '1', 'position', 0, 'open', open,
  'won', 0, 'running', 0, 'seq', 0, 'tags', tags, 'retention', retention, 'history_limit', history_limit, 'chords', chords,
  'created', instant, 'timeout', timeout, 'scheduled', scheduled, 'idem', has_key == '1' and IDEMPOTENCY or '',
  'announced', announced, 'detached', detached, unpack(deadline and {'deadline', deadline} or {}))
redis.call('HINCRBY', PLAN, 'live', 1)
redis.call('PERSIST', PLAN)
redis.call('HSET', OUTPUTS, ':input', input)
local rows = {}
for at = FIRST, #ARGV do
  rows[#rows + 1], rows[#rows + 2] = ARGV[at], ready
  if #rows == WRITE_AT_ONCE or at == #ARGV then
    redis.call('HSET', NODES, unpack(rows))
    rows = {}
  end
end
if has_key == '1' then
  redis.call('HSET', IDEMPOTENCY, 'run', run_id, 'digest', digest)
end
if limits ~= '{}' then
  for bucket, numbers in pairs(cjson.decode(limits)) do
    redis.call('HSETNX', LIMITS, bucket, numbers)
  end
end
redis.call('ZADD', INDEX .. ':flow:' .. flow, now, run_id)
redis.call('ZADD', INDEX .. ':status:pending', now, run_id)
if deadline then
  redis.call('ZADD', TIMERS, deadline, run_id .. '|')
end
if schedule ~= '' then
  redis.call('HSET', SLOTS, schedule, scheduled, schedule .. '|run', run_id)
end
redis.call('XADD', HISTORY, 'MAXLEN', '~', history_limit, '*', 'event', 'run-started', 'node', '', 'attempt', 0)
redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', 'started', 'run', run_id, 'flow', flow, 'detail', '')
redis.call('ZADD', LIVE, now + LOOK_AFTER_MS, run_id)
if message ~= '' then
  redis.call('LPUSH', QUEUE, (string.gsub(message, '@since@', instant)))
  return {'started', run_id}
end
local answer = {'started', run_id, 'step', 0, instant, detached}
for at = FIRST, #ARGV do
  answer[#answer + 1] = ARGV[at]
end
return answer

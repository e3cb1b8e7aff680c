-- Create a run at its first position, at most once for a run id and for an idempotency key.
-- needs: run
-- KEYS    as run.lua; 17 record of the idempotency key, 18 slots of the schedules, 19 queue of the first message or ''
-- ARGV    2 flow, 3 plan hash, 4 the plan's fields as a JSON object or '', 5 input (JSON) or '', 6 digest of the input,
--         7 tags (JSON), 8 retention in ms, 9 history entries, 10 '1' if chords can be used, 11 timeout in ms or 0,
--         12 '1' with an idempotency key, 13 scheduled instant in ms or '', 14 limits (JSON object: bucket to numbers),
--         15 schedule or '' (13 is then its slot), 16 what to do while its last run lives: 'skip' or 'allow',
--         17 the first message, with '@since@' for the instant, to be pushed here; or '' if the caller sends it
-- Returns {outcome, run id, ...}: 'started' and what to publish, 'exists', 'conflict', 'no plan' (call again with it),
--         and of a schedule 'ticked' (the slot is not new) or 'skipped' (its last run lives).
-- TTL     none while the run lives. An identical second call answers 'exists' and writes nothing.
local run_id, flow, plan_hash, plan_fields = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local digest, retention = ARGV[6], ARGV[8]
local IDEMPOTENCY = KEYS[17]
if redis.call('EXISTS', RUN) == 1 then
  return {'exists', run_id}
end
if ARGV[12] == '1' then
  local first = redis.call('HMGET', IDEMPOTENCY, 'run', 'digest')
  if first[1] then
    return {first[2] == digest and 'exists' or 'conflict', first[1]}
  end
end
local schedule, slot, SLOTS = ARGV[15], tonumber(ARGV[13]), KEYS[18]
if schedule ~= '' then
  if tonumber(redis.call('HGET', SLOTS, schedule) or 0) >= slot then
    return {'ticked', run_id}
  end
  local last = redis.call('HGET', SLOTS, schedule .. '|run')
  if ARGV[16] == 'skip' and last and redis.call('ZSCORE', LIVE, last) then
    redis.call('HSET', SLOTS, schedule, ARGV[13])
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
redis.call('HSET', RUN, 'status', 'pending', 'flow', flow, 'plan', plan_hash, 'epoch', '1', 'position', END, 'open', 0,
  'won', 0, 'running', 0, 'seq', 0, 'tags', ARGV[7], 'retention', retention, 'history_limit', ARGV[9], 'chords', ARGV[10],
  'created', string.format('%.0f', NOW), 'timeout', ARGV[11], 'scheduled', ARGV[13],
  'idem', ARGV[12] == '1' and IDEMPOTENCY or '')
load_run()
redis.call('HINCRBY', PLAN, 'live', 1)
redis.call('PERSIST', PLAN)
redis.call('HSET', OUTPUTS, ':input', ARGV[5])
if ARGV[12] == '1' then
  redis.call('HSET', IDEMPOTENCY, 'run', run_id, 'digest', digest)
end
for bucket, numbers in pairs(cjson.decode(ARGV[14])) do
  redis.call('HSETNX', LIMITS, bucket, numbers)
end
redis.call('ZADD', INDEX .. ':flow:' .. flow, run.created, run_id)
redis.call('ZADD', INDEX .. ':status:pending', run.created, run_id)
if tonumber(ARGV[11]) > 0 then
  set_run({deadline = NOW + tonumber(ARGV[11])})
  redis.call('ZADD', TIMERS, NOW + tonumber(ARGV[11]), run_id .. '|')
end
if schedule ~= '' then
  redis.call('HSET', SLOTS, schedule, ARGV[13], schedule .. '|run', run_id)
end
note('run-started')
closing.event('started')
local work = enter(0)
if work.kind ~= '' and plan_step(work.position).kind ~= 'parallel' then
  announced(work)  -- a parallel step is announced by the worker that the client's message reaches
end
if ARGV[17] ~= '' then
  closing.push(KEYS[19], ARGV[17])
  work = nothing()
end
local answer = reply('started', work)
table.insert(answer, 2, run_id)
return answer

-- The vocabulary of every transition of a run: read the run, its plan and its node records, move them, say what to publish.
-- It is put in front of the scripts that name it. KEYS and the first ARGV are the same for all of them:
-- KEYS    see keys.py, Keys.of_run.   ARGV[1] run id
-- Three kinds of keys are made from a key in KEYS because their names stand in stored state: the lines of a bucket
-- (LIMITS:line:<bucket> and so on), the claims of a holder (HOLDERS:<id>) and what a map or a saga has of a run (RUN:...).
-- Memory: a transition that may be refused when Redis is full writes with HSET first, so that it is refused whole.
local RUN, NODES, OUTPUTS, FAILURES, HISTORY, PLAN, LIVE, TIMERS = unpack(KEYS, 1, 8)
local HOLDERS, EXPIRING, EVENTS, INDEX, LIMITS, LINES, DONE, CURSORS = unpack(KEYS, 9, 16)
local RUN_ID = ARGV[1]
local END, LOOK_AFTER_MS, EVENTS_KEPT, LARGE_STEP, SAGA_AHEAD = -1, 1000, 10000, 50, 20
local FIELDS = {'status', 'epoch', 'flow', 'position', 'open', 'won', 'running', 'seq', 'detached', 'announced',
  'verdict', 'saga', 'saga_at', 'saga_failed', 'retention', 'history_limit', 'chords', 'created', 'scheduled', 'idem',
  'plan', 'map_count', 'map_next', 'map_pulled', 'map_again', 'map_looks'}
local NUMBERS = {position = true, open = true, won = true, running = true, seq = true, announced = true, saga_at = true,
  retention = true, history_limit = true, created = true, map_count = true, map_next = true, map_pulled = true,
  map_again = true, map_looks = true}

local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)  -- milliseconds
local NOW_US = clock[1] * 1000000 + clock[2]

local run = nil
local plan_cache = {}

-- False when there is no such run, or when the caller's plan is not the one that the run pins: a forged message.
local function load_run()
  local values = redis.call('HMGET', RUN, unpack(FIELDS))
  if not values[1] then
    return false
  end
  run = {}
  for index, field in ipairs(FIELDS) do
    local value = values[index]
    if value then
      run[field] = NUMBERS[field] and tonumber(value) or value
    end
  end
  return string.sub(PLAN, -#run.plan) == run.plan
end

local function set_run(fields)
  local flat = {}
  for field, value in pairs(fields) do
    run[field] = value
    flat[#flat + 1] = field
    flat[#flat + 1] = type(value) == 'number' and string.format('%.0f', value) or value
  end
  redis.call('HSET', RUN, unpack(flat))
end

local function is_ended()
  return run.status == 'succeeded' or run.status == 'failed' or run.status == 'cancelled'
    or run.status == 'compensation_failed'
end

local function plan_fact(field)
  local fact = plan_cache[field]
  if not fact then
    local text = redis.call('HGET', PLAN, field)
    if not text then
      return nil
    end
    fact = cjson.decode(text)
    plan_cache[field] = fact
  end
  return fact
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
  local text = redis.call('HGET', NODES, node)
  return text and cjson.decode(text)
end

local function save(node, rec) redis.call('HSET', NODES, node, cjson.encode(rec)) end

local function note(event, node, attempt, detail)
  redis.call('XADD', HISTORY, 'MAXLEN', '~', run.history_limit, '*', 'event', event, 'node', node or '',
    'attempt', attempt or 0, 'detail', detail or '')
end

local function touch() redis.call('ZADD', LIVE, NOW + LOOK_AFTER_MS, RUN_ID) end

local function next_seq()
  run.seq = run.seq + 1
  redis.call('HSET', RUN, 'seq', run.seq)
  return run.seq
end

local function set_status(status)
  redis.call('ZREM', INDEX .. ':status:' .. run.status, RUN_ID)
  redis.call('ZADD', INDEX .. ':status:' .. status, run.created, RUN_ID)
  set_run({status = status})
end

-- What the caller has to publish, if anything: kind 'step' (a whole position), 'nodes' (singles) or 'saga'.
local function nothing() return {kind = '', names = {}} end

local function reply(outcome, work)
  local answer = {outcome, work.kind, work.position or END, string.format('%.0f', work.since or NOW), run.detached or '0'}
  for _, name in ipairs(work.names) do
    answer[#answer + 1] = name
  end
  return answer
end

-- The claim's slots are free, and who stands in line for one is due now.
local function leave_slots(rec, node)
  for _, bucket in ipairs(plan_node(node).slots or {}) do
    redis.call('ZREM', LIMITS .. ':held:' .. bucket, RUN_ID .. '|' .. node .. '|' .. rec.token)
    if redis.call('EXISTS', LIMITS .. ':line:' .. bucket) == 1 then
      redis.call('ZADD', LINES, NOW, bucket)
    end
  end
end

local function end_claim(rec, node)
  set_run({running = run.running - 1})
  redis.call('HDEL', HOLDERS .. ':' .. rec.holder, RUN_ID .. '|' .. node)
  leave_slots(rec, node)
  rec.token, rec.holder, rec.deadline = nil, nil, nil
end

-- The buckets of a node; where they depend on its input, those that it was last told.
local function buckets_of(node, rec) return rec.buckets or plan_node(node).limits end

local function leave_lines(node, rec)
  for _, bucket in ipairs(buckets_of(node, rec)) do
    redis.call('ZREM', LIMITS .. ':line:' .. bucket, RUN_ID .. '|' .. node)
    redis.call('ZREM', LIMITS .. ':released:' .. bucket, RUN_ID .. '|' .. node)
  end
  redis.call('ZREM', TIMERS, RUN_ID .. '|' .. node)
end

local function event(kind, detail)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', kind, 'run', RUN_ID, 'flow', run.flow,
    'detail', detail or '')
end

local function own_keys()
  local keys = {RUN, NODES, OUTPUTS, FAILURES, HISTORY, SAGA, OPEN, AGAIN}
  for _, node in ipairs(plan_fact('maps') or {}) do
    keys[#keys + 1] = results_of(node)
    keys[#keys + 1] = RUN .. ':items:' .. node
  end
  for _, entry in ipairs(plan_fact('pages') or {}) do
    keys[#keys + 1] = results_of(entry[1])
  end
  return keys
end

-- Version and cursor (JSON) at which the last successful run of the flow left a source.
local function cursor_of(source)
  return string.match(redis.call('HGET', CURSORS, run.flow .. '|' .. source) or '0 null', '^(%d+) (.*)$')
end

-- The run has succeeded: its sources are left where it ended, but for those that were moved since it began.
local function move_cursors()
  for _, entry in ipairs(plan_fact('pages') or {}) do
    local node, source = entry[1], entry[2]
    local rec = source ~= '' and record(node)
    if rec and rec.state == 'succeeded' then
      local version, cursor = cursor_of(source)
      local base, ended = unpack(redis.call('HMGET', results_of(node), ':base', ':cursor'))
      if version ~= base then
        note('cursor-kept', node, 0, source)
      elseif cursor ~= ended then
        redis.call('HSET', CURSORS, run.flow .. '|' .. source, string.format('%.0f', version + 1) .. ' ' .. ended)
        note('cursor-moved', node, 0, source)
      end
    end
  end
end

-- The run has ended: nothing of it is indexed as live, everything of it gets the retention as its lifetime.
local function finish(status)
  set_status(status)
  set_run({finished = NOW})
  if status == 'succeeded' then
    move_cursors()
  end
  note('run-' .. status)
  redis.call('ZREM', LIVE, RUN_ID)
  redis.call('ZREM', TIMERS, RUN_ID .. '|')
  for _, key in ipairs(own_keys()) do
    redis.call('PEXPIRE', key, run.retention)
  end
  if run.idem and run.idem ~= '' then
    redis.call('PEXPIRE', run.idem, run.retention)
  end
  redis.call('ZADD', EXPIRING, NOW + run.retention, status .. '|' .. run.flow .. '|' .. RUN_ID)
  -- An earlier run may have had a longer retention: the plan lives as long as the last of its runs.
  local kept = math.max(tonumber(redis.call('HGET', PLAN, 'kept') or 0), NOW + run.retention)
  redis.call('HSET', PLAN, 'kept', string.format('%.0f', kept))
  if redis.call('HINCRBY', PLAN, 'live', -1) <= 0 and redis.call('HEXISTS', PLAN, 'announced') == 0 then
    redis.call('PEXPIREAT', PLAN, string.format('%.0f', kept))
  end
  event(status, string.format('%.0f', NOW - run.created))
  redis.call('PUBLISH', DONE, status)
end

-- Find runs that are due for a look, oldest first, with some of the newest where they are too many at once: a multitude that waits
-- must not hide a message that was lost just now. Of runs that are whole and only wait for an instant, in a line, or for somebody
-- to claim what is ready, this is the look; timers and lines that an index has lost are put back. It costs an eighth of the other
-- one, and a long queue has a multitude of such runs.
-- KEYS    1 live, 2 what the names of all runs begin with, 3 what those of plans begin with, 4 timers, 5 limits, 6 buckets with a
--         line, 7 what the names of indexes begin with
-- ARGV    1 how many runs at most, oldest first, 2 the instant in ms at which a worker came last
-- Returns {'1' if there may be more, {run, plan or ''}...}: those that inspect_run.lua has to look at, or {run, plan, epoch, 'ready',
--         node, instant...}: what it would answer.
-- TTL     taken off plans. A second call finds the same without those whose next look it has set.
local LIVE, RUNS, PLANS, TIMERS, LIMITS, LINES, INDEX = unpack(KEYS, 1, 7)
local AT_ONCE, LARGE, NEWEST, RECORDS_AT_ONCE = tonumber(ARGV[1]), 100, 50, 500
local JOINED, LOOK_AFTER_MS, SOON_MS = tonumber(ARGV[2]), 1000, 5000  -- the last two as in inspect_run.lua
-- include: instant
-- include: next_look

local plans, next_looks, records = {}, {}, 0
local function has_plan(plan)
  if plans[plan] == nil then
    plans[plan] = redis.call('HEXISTS', PLANS .. ':' .. plan, 'text') == 1
    redis.call('PERSIST', PLANS .. ':' .. plan)
  end
  return plans[plan]
end

local function is_in_line(bucket, member)
  if redis.call('HEXISTS', LIMITS, string.match(bucket, '^[^#]+')) == 0
    or not redis.call('ZSCORE', LIMITS .. ':line:' .. bucket, member) then
    return false
  end
  redis.call('ZADD', LINES, 'NX', NOW, bucket)
  return true
end

-- Where every open member of the run's position waits or is ready, and what is needed to go on is there: which of them are ready
-- and may be lost, with their instants, and milliseconds to the next look if any is ready.
local function waiting_members(id, run, deadline, open)
  if redis.call('HLEN', run .. ':nodes') > LARGE or redis.call('HEXISTS', run .. ':outputs', ':input') == 0 then
    return nil
  end
  local rows, waiting, ready, next_ms = redis.call('HGETALL', run .. ':nodes'), 0, {}, nil
  records = records + #rows / 2
  for at = 2, #rows, 2 do
    local is_asked = string.find(rows[at], '"parked"', 1, true) or string.find(rows[at], '"ready"', 1, true)
    local rec = is_asked and cjson.decode(rows[at]) or {}
    local member = id .. '|' .. rows[at - 1]
    if rec.state == 'parked' then
      waiting = waiting + 1
      if rec.bucket and not is_in_line(rec.bucket, member) then
        return nil
      elseif not rec.bucket or rec.ends then
        redis.call('ZADD', TIMERS, 'NX', math.min(rec.bucket and math.huge or rec.due, rec.ends or math.huge), member)
      end
    elseif rec.state == 'ready' then
      if rec.again and JOINED > rec.sent then  -- if that worker has its flow, the back-off is over
        return nil
      end
      waiting = waiting + 1
      if rec.ends then
        redis.call('ZADD', TIMERS, 'NX', rec.ends, member)
      end
      next_ms = math.min(next_ms or SOON_MS, math.max(LOOK_AFTER_MS, (NOW - rec.since) / 2))
      if NOW >= (rec.again or rec.since + LOOK_AFTER_MS) then
        ready[#ready + 1], ready[#ready + 2], ready[#ready + 3] = 'ready', rows[at - 1], string.format('%.0f', rec.sent or rec.since)
      elseif rec.again then
        next_ms = math.min(next_ms, rec.again - NOW)
      end
    end
  end
  if deadline then
    redis.call('ZADD', TIMERS, 'NX', deadline, id .. '|')
  end
  if waiting > 0 and waiting == tonumber(open) then
    return ready, next_ms
  end
end

local answer = {}
-- It waits for its turn behind another one that is there; see lanes.lua.
local function is_behind(id, lane)
  local queue = INDEX .. ':lane:' .. lane .. ':queued'
  local first = redis.call('ZSCORE', queue, id) and redis.call('ZRANGE', queue, 0, 0)[1]
  return first and first ~= id and redis.call('HEXISTS', RUNS .. ':' .. first, 'queued') == 1
end

local function look(id, due)
  local run = RUNS .. ':' .. id
  local status, plan, open, running, deadline, verdict, items, unfinished, epoch, queued, lane = unpack(redis.call('HMGET', run,
    'status', 'plan', 'open', 'running', 'deadline', 'verdict', 'map_count', 'unfinished', 'epoch', 'queued', 'lane'), 1, 11)
  answer[#answer + 1] = {id, plan or ''}
  if (status == 'running' or status == 'pending') and running == '0' and not verdict and not items
    and (unfinished or '') == '' and has_plan(plan) then
    local ready, next_ms = nil, nil
    if not queued then
      ready, next_ms = waiting_members(id, run, deadline, open)
    elseif is_behind(id, lane) then
      ready = {}
    end
    if ready then
      next_looks[#next_looks + 1] = next_ms and look_after(next_ms, 0.5) or look_at_rest(due)
      next_looks[#next_looks + 1] = id
      answer[#answer] = #ready > 0 and {id, plan, epoch, unpack(ready)} or nil
    end
  end
end

local due = redis.call('ZRANGEBYSCORE', LIVE, '-inf', NOW, 'WITHSCORES', 'LIMIT', 0, AT_ONCE)
if due[1] then
  redis.call('ZADD', LIVE, 'XX', due[2], due[1])  -- first: a full Redis refuses it, and so all of this
end
local is_full = #due == 2 * AT_ONCE
local asked = is_full and redis.call('ZREVRANGEBYSCORE', LIVE, NOW, '(' .. due[#due], 'WITHSCORES', 'LIMIT', 0, NEWEST) or {}
for _, part in ipairs(due) do
  asked[#asked + 1] = part
end
for at = 1, #asked, 2 do
  if records >= RECORDS_AT_ONCE then
    is_full = true
    break
  end
  local before = #answer
  local is_read = pcall(look, asked[at], asked[at + 1])
  if not is_read and #answer == before then  -- its key is of another type
    answer[#answer + 1] = {asked[at], ''}
  end
end
if #next_looks > 0 then
  redis.call('ZADD', LIVE, 'XX', unpack(next_looks))
end
return {is_full and '1' or '0', unpack(answer)}

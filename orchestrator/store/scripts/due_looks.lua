-- Find runs that are due for a look, oldest first, with some of the newest where they are too many at once: a multitude that waits
-- must not hide a message that was lost just now. Of runs that only wait for an instant or in a line, and are whole, this is the
-- look; timers and lines that an index has lost are put back.
-- KEYS    1 live, 2 what the names of all runs begin with, 3 what those of plans begin with, 4 timers, 5 limits, 6 buckets with a
--         line, 7 what the names of indexes begin with
-- ARGV    1 how many runs at most, oldest first
-- Returns {'1' if there may be more, run, plan or '', run, plan...}: those that inspect_run.lua has to look at.
-- TTL     taken off plans. A second call finds the same without those whose next look it has set.
local LIVE, RUNS, PLANS, TIMERS, LIMITS, LINES, INDEX = unpack(KEYS, 1, 7)
local AT_ONCE, LARGE, NEWEST, RECORDS_AT_ONCE = tonumber(ARGV[1]), 100, 50, 500
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

-- Every open member of the run's position waits, and what is needed to go on is there.
local function is_at_rest(id, run, deadline, open)
  if redis.call('HLEN', run .. ':nodes') > LARGE or redis.call('HEXISTS', run .. ':outputs', ':input') == 0 then
    return false
  end
  local rows, waiting = redis.call('HGETALL', run .. ':nodes'), 0
  records = records + #rows / 2
  for at = 2, #rows, 2 do
    local rec = string.find(rows[at], '"parked"', 1, true) and cjson.decode(rows[at]) or {}
    local member = id .. '|' .. rows[at - 1]
    if rec.state == 'parked' then
      waiting = waiting + 1
      if rec.bucket and not is_in_line(rec.bucket, member) then
        return false
      elseif not rec.bucket or rec.ends then
        redis.call('ZADD', TIMERS, 'NX', math.min(rec.bucket and math.huge or rec.due, rec.ends or math.huge), member)
      end
    end
  end
  if deadline then
    redis.call('ZADD', TIMERS, 'NX', deadline, id .. '|')
  end
  return waiting > 0 and waiting == tonumber(open)
end

local answer = {}
-- It waits for its turn behind another one; see lanes.lua.
local function is_behind(id, lane)
  local queue = INDEX .. ':lane:' .. lane .. ':queued'
  return redis.call('ZSCORE', queue, id) and redis.call('ZRANGE', queue, 0, 0)[1] ~= id
end

local function look(id, due)
  local run = RUNS .. ':' .. id
  local status, plan, open, running, deadline, verdict, items, unfinished, queued, lane = unpack(redis.call('HMGET', run, 'status',
    'plan', 'open', 'running', 'deadline', 'verdict', 'map_count', 'unfinished', 'queued', 'lane'), 1, 10)
  answer[#answer + 1], answer[#answer + 2] = id, plan or ''
  if (status == 'running' or status == 'pending') and running == '0' and not verdict and not items
    and (unfinished or '') == '' and has_plan(plan)
    and (queued and is_behind(id, lane) or not queued and is_at_rest(id, run, deadline, open)) then
    next_looks[#next_looks + 1], next_looks[#next_looks + 2] = look_at_rest(due), id
    answer[#answer], answer[#answer - 1] = nil, nil
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
    answer[#answer + 1], answer[#answer + 2] = asked[at], ''
  end
end
if #next_looks > 0 then
  redis.call('ZADD', LIVE, 'XX', unpack(next_looks))
end
return {is_full and '1' or '0', unpack(answer)}

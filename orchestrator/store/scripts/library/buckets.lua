-- Token buckets as GCRA on Redis's clock, in microseconds: a bucket holds `burst` tokens and gains one per `interval`.
-- One without an interval has `burst` slots instead, each held by one claim until it ends.
-- A claim takes tokens; nothing is reserved ahead.
local SLEEP_US, OUTSTANDING_US, SECOND_US = 250000, 2000000, 1000000
local SLOT_US = 1000000  -- when a slot is free nobody knows: longer than anybody sleeps for
local PACE_MS = 86400000  -- a pace that nobody used for a day is forgotten

-- The bucket of one key is named <limit>#<hash of the key>; it has the numbers of its limit.
local function is_keyed(name) return string.find(name, '#', 1, true) ~= nil end

-- An adaptive bucket finds its interval itself, between two; `pace` is what it has found so far.
local function read_pace(bucket)
  local found = redis.call('HMGET', bucket.pace_key, 'interval', 'known', 'raised', 'lowered', 'streak')
  local pace = {interval = tonumber(found[1]) or bucket.interval, known = tonumber(found[2]),
    raised = tonumber(found[3]) or 0, lowered = tonumber(found[4]) or 0, streak = tonumber(found[5]) or 0}
  bucket.interval = math.min(bucket.slowest, math.max(bucket.fastest, pace.interval))
  bucket.pace = pace
end

local function read_bucket(limits, name, now)
  local text = redis.call('HGET', limits, string.match(name, '^[^#]+'))
  if not text then
    return nil
  end
  local interval, burst, slowest, fastest = string.match(text, '^(%d+) (%d+) ?(%d*) ?(%d*)$')
  local bucket = {name = name, now = now, interval = tonumber(interval), burst = tonumber(burst),
    tat = limits .. ':tat:' .. name, line = limits .. ':line:' .. name, released = limits .. ':released:' .. name,
    asking = limits .. ':asking:' .. name, frozen_key = limits .. ':frozen:' .. name, pace_key = limits .. ':pace:' .. name,
    slowest = tonumber(slowest), fastest = tonumber(fastest)}
  if bucket.interval == 0 then
    bucket.slots = limits .. ':held:' .. name
    return bucket
  end
  local stored = redis.call('MGET', bucket.tat, bucket.frozen_key)
  bucket.stored, bucket.frozen = tonumber(stored[1] or now), math.max(tonumber(stored[2] or now), now)
  if bucket.fastest then
    read_pace(bucket)
  end
  return bucket
end

local function set_arrival(bucket, tat)
  bucket.stored = tat
  redis.call('SET', bucket.tat, string.format('%.0f', tat), 'PX', math.ceil((tat - bucket.now) / 1000) + 1000)
end

-- Theoretical arrival time, never further away than an empty bucket's. One that a raised limit or a clock that went back
-- left further away is stored anew: cut off at every reading, it would stay one token away until it is reached.
local function arrival_time(bucket)
  local furthest = bucket.frozen + bucket.burst * bucket.interval
  if bucket.stored > furthest then
    set_arrival(bucket, furthest)
  end
  return math.max(bucket.stored, bucket.now)
end

local function free_slots(bucket) return bucket.burst - redis.call('ZCARD', bucket.slots) end

local function wait_for(bucket)
  if bucket.slots then
    return free_slots(bucket) > 0 and 0 or SLOT_US
  end
  local empty_for = arrival_time(bucket) + bucket.interval - bucket.burst * bucket.interval - bucket.now
  return math.max(0, empty_for, bucket.frozen - bucket.now)
end

-- Take a token; a slot for a claim, until transition.lua ends it.
local function take_token(bucket, claim)
  if bucket.slots then
    redis.call('ZADD', bucket.slots, bucket.now, claim)
  else
    set_arrival(bucket, arrival_time(bucket) + bucket.interval)
  end
end

local function set_pace(bucket, rate, known, raised, lowered, streak)
  bucket.interval = math.min(bucket.slowest, math.max(bucket.fastest, SECOND_US / rate))
  redis.call('HSET', bucket.pace_key, 'interval', string.format('%.3f', bucket.interval),
    'known', string.format('%.6f', known or 0), 'raised', string.format('%.0f', raised),
    'lowered', string.format('%.0f', lowered), 'streak', streak)
  redis.call('PEXPIRE', bucket.pace_key, PACE_MS)
end

-- Somebody who had to wait got a token: once a second that makes the bucket faster. By a tenth until the first refusal;
-- then back to nine tenths of what was refused within two seconds, and beyond it slowly at first, for the limit is near,
-- and faster with every second without a refusal, for it has moved.
local function raise_pace(bucket)
  local pace, rate = bucket.pace, SECOND_US / bucket.interval
  if not pace or bucket.now - pace.raised < SECOND_US or bucket.interval <= bucket.fastest then
    return
  end
  local known, streak = pace.known, pace.streak
  if not known or known == 0 then
    rate = rate * 1.1
  elseif rate < known * 0.999 then
    rate = math.min(known, rate + known / 2)
  else
    streak = streak + 1
    rate = rate + known * streak * streak / 9000
  end
  set_pace(bucket, rate, known, bucket.now, pace.lowered, streak)
end

-- The other side refused an attempt: half as fast from now on. Those that were on their way already say nothing new.
local function lower_pace(bucket, started, till)
  local pace, rate = bucket.pace, SECOND_US / bucket.interval
  if pace and started > pace.lowered and bucket.now - pace.lowered >= SECOND_US then
    set_pace(bucket, rate / 2, rate * 0.9, till, bucket.now, 0)
  end
end

-- Grant nothing before an instant, and then one token: a bucket that stood still does not make up for it. Another
-- instant that is later stands.
local function freeze_bucket(bucket, till)
  if bucket and not bucket.slots and till > bucket.frozen then
    bucket.frozen = till
    redis.call('SET', bucket.frozen_key, string.format('%.0f', till), 'PX', math.ceil((till - bucket.now) / 1000) + 1000)
    set_arrival(bucket, math.max(arrival_time(bucket), till + (bucket.burst - 1) * bucket.interval))
  end
end

return {SLEEP_US = SLEEP_US, OUTSTANDING_US = OUTSTANDING_US, is_keyed = is_keyed, read = read_bucket, wait_for = wait_for,
  free_slots = free_slots, arrival_time = arrival_time, take_token = take_token, raise_pace = raise_pace,
  lower_pace = lower_pace, freeze = freeze_bucket}

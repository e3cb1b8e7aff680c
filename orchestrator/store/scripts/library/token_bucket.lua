-- Token buckets as GCRA on Redis's clock, in microseconds: a bucket holds `burst` tokens and gains one per `interval`.
-- A claim takes tokens; nothing is reserved ahead.
local SECOND_US = 1000000
local PACE_MS = 86400000  -- a pace that nobody used for a day is forgotten

-- An adaptive bucket finds its interval itself, between two; `pace` is what it has found so far.
local function read_pace(bucket)
  local found = redis.call('HMGET', bucket.pace_key, 'interval', 'known', 'raised', 'lowered', 'streak')
  local pace = {interval = tonumber(found[1]) or bucket.interval, known = tonumber(found[2]),
    raised = tonumber(found[3]) or 0, lowered = tonumber(found[4]) or 0, streak = tonumber(found[5]) or 0}
  bucket.interval = math.min(bucket.slowest, math.max(bucket.fastest, pace.interval))
  bucket.pace = pace
end

local function load(bucket, numbers, limits)
  local interval, burst, slowest, fastest = string.match(numbers, '^(%d+) (%d+) ?(%d*) ?(%d*)$')
  bucket.interval, bucket.burst, bucket.slowest, bucket.fastest = tonumber(interval), tonumber(burst), tonumber(slowest),
    tonumber(fastest)
  bucket.tat, bucket.frozen_key, bucket.pace_key = limits .. ':tat:' .. bucket.name, limits .. ':frozen:' .. bucket.name,
    limits .. ':pace:' .. bucket.name
  local stored = redis.call('MGET', bucket.tat, bucket.frozen_key)
  bucket.stored, bucket.frozen = tonumber(stored[1] or bucket.now), math.max(tonumber(stored[2] or bucket.now), bucket.now)
  if bucket.fastest then
    read_pace(bucket)
  end
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

local function wait_for(bucket)
  local empty_for = arrival_time(bucket) + bucket.interval - bucket.burst * bucket.interval - bucket.now
  return math.max(0, empty_for, bucket.frozen - bucket.now)
end

local function take(bucket) set_arrival(bucket, arrival_time(bucket) + bucket.interval) end

-- What the bucket can grant within the time that a claim sleeps for a token.
local function room(bucket)
  local till = bucket.now + SLEEP_US + bucket.burst * bucket.interval
  return math.floor((till - arrival_time(bucket)) / bucket.interval)
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
local function waited(bucket)
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

-- Grant nothing before an instant, and then one token: a bucket that stood still does not make up for it. Another instant
-- that is later stands. An adaptive bucket is half as fast from now on; attempts that were on their way already say nothing
-- new.
local function freeze(bucket, till, started)
  local pace, rate = bucket.pace, SECOND_US / bucket.interval
  if pace and started > pace.lowered and bucket.now - pace.lowered >= SECOND_US then
    set_pace(bucket, rate / 2, rate * 0.9, till, bucket.now, 0)
  end
  if till > bucket.frozen then
    bucket.frozen = till
    redis.call('SET', bucket.frozen_key, string.format('%.0f', till), 'PX', math.ceil((till - bucket.now) / 1000) + 1000)
    set_arrival(bucket, math.max(arrival_time(bucket), till + (bucket.burst - 1) * bucket.interval))
  end
end

return {load = load, wait_for = wait_for, take = take, room = room, freeze = freeze, waited = waited}

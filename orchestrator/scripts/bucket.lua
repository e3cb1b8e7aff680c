-- Token buckets as GCRA on Redis's clock, in microseconds: a bucket holds `burst` tokens and gains one per `interval`.
-- It is put in front of the scripts that name it. A claim takes tokens; nothing is reserved ahead.
local SLEEP_US, OUTSTANDING_US = 250000, 2000000

local function read_bucket(limits, name, now)
  local text = redis.call('HGET', limits, name)
  if not text then
    return nil
  end
  local interval, burst = string.match(text, '^(%d+) (%d+)$')
  return {name = name, now = now, interval = tonumber(interval), burst = tonumber(burst), tat = limits .. ':tat:' .. name,
    line = limits .. ':line:' .. name, released = limits .. ':released:' .. name, frozen = limits .. ':frozen:' .. name}
end

local function set_arrival(bucket, tat)
  redis.call('SET', bucket.tat, string.format('%.0f', tat), 'PX', math.ceil((tat - bucket.now) / 1000) + 1000)
end

-- Theoretical arrival time, never further away than an empty bucket's. One that a raised limit or a clock that went back
-- left further away is stored anew: cut off at every reading, it would stay one token away until it is reached.
local function arrival_time(bucket)
  local tat = tonumber(redis.call('GET', bucket.tat) or bucket.now)
  local furthest = bucket.now + bucket.burst * bucket.interval
  if tat > furthest then
    tat = furthest
    set_arrival(bucket, tat)
  end
  return math.max(tat, bucket.now)
end

local function wait_for(bucket)
  local frozen = tonumber(redis.call('GET', bucket.frozen) or bucket.now) - bucket.now
  return math.max(0, arrival_time(bucket) + bucket.interval - bucket.burst * bucket.interval - bucket.now, frozen)
end

local function take_token(bucket) set_arrival(bucket, arrival_time(bucket) + bucket.interval) end

-- Grant nothing before an instant; another that is later stands.
local function freeze_bucket(bucket, till)
  if bucket and till > tonumber(redis.call('GET', bucket.frozen) or 0) then
    redis.call('SET', bucket.frozen, string.format('%.0f', till), 'PX', math.ceil((till - bucket.now) / 1000) + 1000)
  end
end

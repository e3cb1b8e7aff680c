-- Limits by name, one module for each kind. A bucket is what a limit has for all of its attempts, or for those of one key.
-- A kind has: load(bucket, numbers, limits) reads its state, and sets `interval`, the microseconds between two that wait;
-- wait_for() says in microseconds how long there is nothing to take; take(claim) takes it for a claim; room() says how many
-- that wait may be released now; and, if the other side's refusal concerns it: freeze(till, started) grants nothing before an
-- instant, because an attempt that began at another one was refused; waited() is told when somebody who had to wait has taken
-- something; look_ms is the pause between two looks at a wait queue that something else makes due.
local SLEEP_US, OUTSTANDING_US = 250000, 2000000

-- The bucket of one key is named <limit>#<hash of the key>; it has the numbers of its limit.
local function is_keyed(name) return string.find(name, '#', 1, true) ~= nil end

local token_bucket = (function()
  -- include: token_bucket
end)()
local slots = (function()
  -- include: slots
end)()

-- By the word that a limit's numbers begin with. The first kinds have none: token buckets begin with microseconds for each
-- token, slots with 0.
local kinds = {}

local function kind_of(numbers)
  local word = string.match(numbers, '^%a+')
  if word then
    return kinds[word]
  end
  return string.sub(numbers, 1, 2) == '0 ' and slots or token_bucket
end

-- Nothing, if nobody has announced the limit: that is an error and never lets an attempt start.
local function read(limits, name, now)
  local numbers = redis.call('HGET', limits, string.match(name, '^[^#]+'))
  if not numbers then
    return nil
  end
  local bucket = {name = name, now = now, line = limits .. ':line:' .. name, released = limits .. ':released:' .. name,
    asking = limits .. ':asking:' .. name}
  setmetatable(bucket, {__index = kind_of(numbers)})
  bucket:load(numbers, limits)
  return bucket
end

return {SLEEP_US = SLEEP_US, OUTSTANDING_US = OUTSTANDING_US, is_keyed = is_keyed, read = read}

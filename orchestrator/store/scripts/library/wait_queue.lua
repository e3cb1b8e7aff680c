-- How an attempt asks its buckets, all at once: it gets a token of each, or a place in the line of the one that blocks.

-- The buckets of a node; where they depend on its input, those that it was last told.
local function buckets_of(node, rec) return rec.buckets or plan_node(node).limits end

local function leave_lines(node, rec)
  for _, bucket in ipairs(buckets_of(node, rec)) do
    redis.call('ZREM', LIMITS .. ':line:' .. bucket, RUN_ID .. '|' .. node)
    redis.call('ZREM', LIMITS .. ':released:' .. bucket, RUN_ID .. '|' .. node)
  end
  redis.call('ZREM', TIMERS, RUN_ID .. '|' .. node)
end

-- What the buckets say: `wait` in microseconds until all of them have a token, and the one to `blame` for it; `queued` if
-- others stand in a line before. `missing` is a bucket without numbers.
local function ask_buckets(names, member)
  local asked = {wait = 0, queued = false}
  for index, name in ipairs(names) do
    local bucket = limits.read(LIMITS, name, NOW_US)
    if not bucket then
      return {missing = name}
    end
    local wait = bucket:wait_for()
    local line = redis.call('ZCARD', bucket.line)
    if line > 0 and not redis.call('ZSCORE', bucket.released, member) then
      asked.queued, wait = true, wait + line * math.max(1, bucket.interval)
    end
    asked[index] = bucket
    if wait > asked.wait then
      asked.wait, asked.blame = wait, bucket
    end
  end
  return asked
end

local function is_in_line(rec, member)
  return rec.bucket and redis.call('ZSCORE', LIMITS .. ':line:' .. rec.bucket, member)
end

-- Park a node in the line of the bucket that blocks it, at the place of its first arrival.
local function stand_in_line(node, rec, asked, first)
  local blame, member = asked.blame, RUN_ID .. '|' .. node
  rec.state, rec.bucket = 'parked', blame.name
  rec.arrived = string.format('%.0f', first)  -- as text: a JSON number keeps 14 digits
  rec.due = NOW + math.ceil(asked.wait / 1000)
  save(node, rec)
  redis.call('ZADD', blame.line, first, member)
  redis.call('ZREM', TIMERS, member)
  redis.call('ZREM', blame.released, member)
  redis.call('ZADD', LINES, 'LT', NOW, blame.name)
  wake_leader(NOW)
  note('waiting', node, rec.attempt, blame.name)
end

-- A node leaves no mark in lines that it does not stand in any more.
local function forget_marks(names, member)
  for _, name in ipairs(names or {}) do
    redis.call('ZREM', LIMITS .. ':line:' .. name, member)
    redis.call('ZREM', LIMITS .. ':released:' .. name, member)
  end
end

local function take_tokens(asked, member, token, has_waited)
  for _, bucket in ipairs(asked) do
    bucket:take(member .. '|' .. token)
    if has_waited and bucket.waited then
      bucket:waited()
    end
    redis.call('ZREM', bucket.line, member)
    redis.call('ZREM', bucket.released, member)
  end
end

return {buckets_of = buckets_of, leave = leave_lines, ask = ask_buckets, has = is_in_line, join = stand_in_line,
  forget_marks = forget_marks, take_tokens = take_tokens}

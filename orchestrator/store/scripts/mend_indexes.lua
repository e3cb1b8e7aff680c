-- Put runs into the indexes that they belong to, where an older version of the library has moved them: it has other indexes of
-- open runs and of flows, and knows nothing of keys that are new.
-- KEYS    1 what the names of indexes begin with, 2 live, 3 announced flows, 4 what the names of all runs begin with, 5 sweep
-- ARGV    1 how many runs at most of older indexes, and of each of the others
-- Returns how many runs were looked at.
-- TTL     keys of an ended run: as its hash. A second call finds nothing to do.
local INDEX, LIVE, FLOWS, RUNS, SWEEP = unpack(KEYS, 1, 5)
local AT_ONCE = tonumber(ARGV[1])
local GROUPS, OLDER = {'open', 'succeeded', 'failed', 'cancelled', 'compensation_failed'}, {'pending', 'running', 'compensating'}
local FAMILIES = {'', 'child_'}
-- include: instant
local looked, flows = 0, redis.call('HKEYS', FLOWS)

local function oldest_of(index) return looked < AT_ONCE and redis.call('ZRANGE', index, 0, AT_ONCE - looked - 1) or {} end

-- Which group a run is in: an older version knows no families.
local function family_of(RUN_ID)
  -- include: family
  return FAMILY
end

-- Take a run off every group of some indexes but the one that it belongs to.
local function forget(indexes, id, but)
  for _, family in ipairs(FAMILIES) do
    for _, group in ipairs(GROUPS) do
      if family .. group ~= but then
        redis.call('ZREM', indexes .. ':' .. family .. group, id)
      end
    end
  end
end

local function note_paused(flow, id, created)
  local group = family_of(id) .. 'paused'
  for _, index in ipairs({INDEX .. ':status:' .. group, INDEX .. ':flow:' .. flow .. ':' .. group}) do
    if created then
      redis.call('ZADD', index, created, id)
    else
      redis.call('ZREM', index, id)
    end
  end
end

-- The keys that an older version does not know live as long as the others.
local function mend_lifetimes(id, key, indexes)
  local left = redis.call('PTTL', key)
  if left == -1 then
    redis.call('PERSIST', key .. ':told')
    return
  end
  redis.call('PEXPIRE', key .. ':told', left)
  for suffix in string.gmatch(indexes or '', '%S+') do
    redis.call('ZADD', INDEX .. ':expiring_tags', NOW + left, suffix .. '|' .. id)
  end
end

local function mend(id)
  looked = looked + 1
  local key, own = RUNS .. ':' .. id, nil
  local status, flow, created, indexes = unpack(redis.call('HMGET', key, 'status', 'flow', 'created', 'indexes'))
  for _, group in ipairs(OLDER) do
    redis.call('ZREM', INDEX .. ':status:' .. group, id)
  end
  for _, group in ipairs(GROUPS) do
    own = status == group and group or own
  end
  own = status and family_of(id) .. (own or 'open')
  forget(INDEX .. ':status', id, own)
  for _, each in ipairs(flow and {flow} or flows) do
    redis.call('ZREM', INDEX .. ':flow:' .. each, id)
    forget(INDEX .. ':flow:' .. each, id, own)
    note_paused(each, id, status == 'paused' and created or nil)
  end
  if own then
    redis.call('ZADD', INDEX .. ':status:' .. own, created, id)
    redis.call('ZADD', INDEX .. ':flow:' .. flow .. ':' .. own, created, id)
    mend_lifetimes(id, key, indexes)
  end
end

for _, status in ipairs(OLDER) do
  for _, id in ipairs(oldest_of(INDEX .. ':status:' .. status)) do
    mend(id)
  end
end
local at = math.floor(NOW / 1000)
local group = FAMILIES[1 + math.floor(at / 4) % 2] .. GROUPS[2 + at % 4]
for _, flow in ipairs(flows) do
  for _, id in ipairs(oldest_of(INDEX .. ':flow:' .. flow)) do
    mend(id)
  end
  local oldest = INDEX .. ':flow:' .. flow .. ':' .. group
  local id = redis.call('ZRANGE', oldest, 0, 0)[1]
  if id and redis.call('EXISTS', RUNS .. ':' .. id) == 0 then
    for _, each in ipairs(redis.call('ZRANGE', oldest, 0, AT_ONCE - 1)) do
      if redis.call('EXISTS', RUNS .. ':' .. each) == 0 then
        redis.call('ZREM', oldest, each)
      end
    end
  end
end
-- Every open run is live, and no other: an older version that ended a run has left it among the open ones.
if redis.call('ZCARD', INDEX .. ':status:open') + redis.call('ZCARD', INDEX .. ':status:child_open') ~= redis.call('ZCARD', LIVE) then
  local from = tonumber(redis.call('HGET', SWEEP, 'mended') or 0)
  local is_over = true
  for _, family in ipairs(FAMILIES) do
    local open = redis.call('ZREVRANGE', INDEX .. ':status:' .. family .. 'open', from, from + AT_ONCE - 1)
    for _, id in ipairs(open) do
      if not redis.call('ZSCORE', LIVE, id) then
        mend(id)
      end
    end
    is_over = is_over and #open < AT_ONCE
  end
  redis.call('HSET', SWEEP, 'mended', is_over and 0 or from + AT_ONCE)
end
return looked

-- The map that a run stands at: one node for many items.

-- Items that nobody works on yet.
local function left() return run.map_count - run.map_next + redis.call('LLEN', AGAIN) end

-- Messages that ask for an item, so many that the map is worked on at its full width; each goes on by itself.
local function map_work(step, busy)
  local work = {kind = 'nodes', position = run.position, names = {}}
  for number = 1, math.min(math.ceil(left() / step.batch), step.width - busy) do
    work.names[number] = step.nodes[1]
  end
  set_run({map_asked = #work.names})
  return #work.names > 0 and work or nothing()
end

-- One more message for a map, from an attempt that will not ask for another item itself, unless as many as there are
-- batches are on their way; if one of those is lost, the reconciler sends the last ones.
local function next_item(facts, goes_on)
  if goes_on or facts.kind ~= 'item' or run.verdict or run.position ~= facts.step then
    return nothing()
  end
  local asked, step = run.map_asked or 0, plan_step(facts.step)
  -- A message that finds the width used up is spent: those on their way count as what they will claim.
  if math.ceil(left() / step.batch) <= asked or run.running + asked >= step.width then
    return nothing()
  end
  set_run({map_asked = asked + 1})
  return {kind = 'nodes', position = run.position, names = {step.nodes[1]}}
end

-- What to publish for a node that is ready again; an item is repeated by the first message that asks for one.
local function repeated(node, facts)
  if facts.kind == 'item' then
    redis.call('RPUSH', AGAIN, node)
  end
  return {kind = 'nodes', position = run.position, names = {facts.kind == 'item' and base_of(node) or node}}
end

-- Begin to work on the items whose output is not there yet.
local function enter_map(position, step)
  local count, won = record(step.source).choice, redis.call('HLEN', results_of(step.nodes[1]))
  set_run({position = position, open = count - won, won = won, announced = END, detached = '1', map_count = count,
    map_next = 0, map_pulled = NOW, map_again = 0, map_looks = 0})
  touch()
  if run.open == 0 then
    return count < step.require and fail_join(step) or nil
  end
  return map_work(step, 0)
end

-- All items have ended: their outputs are read together, as one list.
local function leave_map(step)
  local node = step.nodes[1]
  redis.call('HSET', OUTPUTS, plan_node(node).key, '@' .. node .. '|' .. string.format('%.0f', run.map_count))
end

-- The item that this token was given before, if there is one: the answer was lost.
local function given_before(holder, token)
  local claims = redis.call('HGETALL', HOLDERS .. ':' .. holder)
  for index = 1, #claims, 2 do
    if string.sub(claims[index + 1], 1, #token) == token and string.sub(claims[index], 1, #RUN_ID) == RUN_ID then
      return string.sub(claims[index], #RUN_ID + 2)
    end
  end
end

-- The next item to be done; or none, and whether there may be one behind those that were looked at.
local function pull(node)
  local waiting = redis.call('LINDEX', AGAIN, 0)
  if waiting then
    return waiting
  end
  local behind = math.min(run.map_next + RECORDS_AT_ONCE, run.map_count)
  for index = run.map_next, behind - 1 do
    if in_first_epoch() or redis.call('HEXISTS', results_of(node), index) == 0 then  -- only a resume begins again
      return string.format('%s[%d]', node, index)
    end
  end
  set_run({map_next = behind})
  return nil, behind < run.map_count
end

-- The item is this attempt's; `is_ahead` if the attempt is not the first of its message.
local function take_item(item, is_ahead)
  if tonumber(index_of(item)) < run.map_next then
    redis.call('LREM', AGAIN, 1, item)
  else
    set_run({map_next = tonumber(index_of(item)) + 1})
  end
  redis.call('SADD', OPEN, item)
  set_run({map_pulled = NOW, map_looks = 0, map_asked = math.max(0, (run.map_asked or 0) - (is_ahead and 0 or 1))})
end

-- What the kinds of steps say, see step_kinds.lua.
local function join() end

local function some_items(node, place, most, count)
  local names, behind = {}, math.min(place + most, count)
  for index = place, behind - 1 do
    names[#names + 1] = string.format('%s[%d]', node, index)
  end
  return names, behind < count and behind or nil
end

-- By their index; where too many are open to be sorted, all that have begun.
local function members(step, place, most)
  local node, indexes, names = step.nodes[1], {}, {}
  if redis.call('SCARD', OPEN) > NAMES_AT_ONCE then
    return some_items(node, place, most, run.map_next)
  end
  for _, name in ipairs(redis.call('SMEMBERS', OPEN)) do
    local index = tonumber(index_of(name))
    indexes[#indexes + 1] = index >= place and index or nil
  end
  table.sort(indexes)
  for number = 1, math.min(most, #indexes) do
    names[number] = string.format('%s[%d]', node, indexes[number])
  end
  return names, indexes[most + 1]
end

local function named(step, place, most)
  local source = record(step.source)
  -- Of a map that a fork has taken over no item has a record.
  return some_items(step.nodes[1], place, most, source and not source.inherited and source.choice or 0)
end

local function ready(step) return map_work(step, run.running) end
local function count() return run.map_count end

-- While a map gets on, only an empty queue shows that a message is missing.
local function stalled(step, has_joined)
  if left() > 0 and run.running < step.width and (NOW >= run.map_again or has_joined(run.map_sent)) then
    return NOW - run.map_pulled >= LOOK_AFTER_MS and run.map_pulled or NOW
  end
end

return {next_item = next_item, repeated = repeated, given_before = given_before, pull = pull, take = take_item,
  enter = enter_map, join = join, leave = leave_map, members = members, named = named, ready = ready, stalled = stalled,
  count = count}

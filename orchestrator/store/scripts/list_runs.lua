-- Walk indexes of runs from the newest to the oldest and answer those that pass every filter, with their fields.
-- KEYS    1 what the names of all runs begin with, then groups of indexes; a group has every run that passes
-- ARGV    candidates to look at, runs to answer, newest and oldest instant in ms ('-inf': no limit), before: run id at the
--         newest instant behind which to go on ('' for all of that instant), statuses with a space before and behind each ('' for
--         any), flow ('' for any), parent ('' for runs without one, '*' for any), tags (JSON object; '' for any), text in small letters ('' for
--         any), how many indexes each group has, the fields to answer
-- Returns {instant, id of the last candidate; '1' if there are no more; of each run: its id and the fields that were asked for}.
-- TTL     none. A second call answers the same: it writes nothing.
local candidates, wanted, newest, oldest, before, statuses, flow, parent, tags, text, groups, fields = unpack(ARGV, 1, 12)
local BATCH = 100
candidates, wanted, groups, fields = tonumber(candidates), tonumber(wanted), cjson.decode(groups), cjson.decode(fields)
local asked = tags ~= '' and cjson.decode(tags) or nil
local CHECKED = {'flow', 'status', 'parent', 'tags', 'key', 'error'}

-- The group with the fewest candidates.
local function smallest_group()
  local first, best, fewest = 2, nil, nil
  for _, size in ipairs(groups) do
    local count = 0
    for at = first, first + size - 1 do
      count = count + redis.call('ZCOUNT', KEYS[at], oldest, newest)
    end
    if not fewest or count < fewest then
      best, fewest = {unpack(KEYS, first, first + size - 1)}, count
    end
    first = first + size
  end
  return best
end

-- The next candidate of an index, read in batches.
local function head_of(index)
  while true do
    if index.at > #index.rows then
      if index.is_over then
        return nil
      end
      index.rows = redis.call('ZREVRANGEBYSCORE', index.key, newest, oldest, 'WITHSCORES', 'LIMIT', index.offset, BATCH)
      index.offset, index.at, index.is_over = index.offset + BATCH, 1, #index.rows < 2 * BATCH
    else
      local id, created = index.rows[index.at], index.rows[index.at + 1]
      if before == '' or created ~= newest or id < before then
        return id, tonumber(created)
      end
      index.at = index.at + 2
    end
  end
end

local function has_text(id, key, failure)
  if string.find(id, text, 1, true) or string.find(string.lower(key or ''), text, 1, true) then
    return true
  end
  if not failure then
    return false
  end
  local error = cjson.decode(failure)
  for _, part in ipairs({error.message, error.type, error.node_name}) do
    if part ~= cjson.null and string.find(string.lower(part), text, 1, true) then
      return true
    end
  end
  return false
end

local function has_tags(own)
  local found = cjson.decode(own)
  for name, value in pairs(asked) do
    if found[name] ~= value then
      return false
    end
  end
  return true
end

local function passes(id, own_flow, status, own_parent, own_tags, key, failure)
  return own_flow and (flow == '' or flow == own_flow)
    and (statuses == '' or string.find(statuses, ' ' .. status .. ' ', 1, true))
    and (parent == '*' or (own_parent or '') == parent)
    and (not asked or has_tags(own_tags))
    and (text == '' or has_text(id, key, failure))
end

local indexes, answer, last, looked, found = {}, {newest, before, '0'}, nil, 0, 0
for number, key in ipairs(smallest_group()) do
  indexes[number] = {key = key, offset = 0, rows = {}, at = 1, is_over = false}
end
while looked < candidates and found < wanted do
  local first, id, created = nil, nil, nil
  for _, index in ipairs(indexes) do
    local own_id, own_created = head_of(index)
    if own_id and (not id or own_created > created or own_created == created and own_id > id) then
      first, id, created = index, own_id, own_created
    end
  end
  if not first then
    answer[3] = '1'
    break
  end
  answer[1], answer[2] = first.rows[first.at + 1], id
  first.at = first.at + 2
  if id ~= last then  -- two indexes may have it while it moves from one to the other
    last, looked = id, looked + 1
    local run = KEYS[1] .. ':' .. id
    local checked = redis.pcall('HMGET', run, unpack(CHECKED))  -- a key of another type must not hide the other runs
    if not checked.err and passes(id, unpack(checked)) then
      found = found + 1
      answer[#answer + 1] = id
      for _, value in ipairs(redis.call('HMGET', run, unpack(fields))) do
        answer[#answer + 1] = value or ''
      end
    end
  end
end
return answer

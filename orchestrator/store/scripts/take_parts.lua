-- Copy some parts of an output, items of a map or pages, from a run that is to be forked beside its fork; see take_over.lua.
-- KEYS    1 fork's run, 2 its parts, 3 its failures, 4 source's run, 5 its parts, 6 its failures, 7 its nodes
-- ARGV    1 epoch of the source, 2 how long they are kept in ms, 3 node, 4 number of the first part, 5 how many parts there are,
--         6 kind: 'pages'; 'items', of which some may have failed; or 'undone': items that have a compensation, and so records
-- Returns {'taken', place of the next call, how many fields and how many failures were written}, {'compensated', number} of an item
--         that was undone, {'missing', number} of a part that is gone, {'exists'} or {'changed'} as take_over.lua.
-- TTL     that of ARGV 2. An identical second call writes the same. Begins with HSET: a full Redis refuses it.
local FORK, PARTS, FAILURES, SOURCE, OLD_PARTS, OLD_FAILURES, OLD_NODES = unpack(KEYS, 1, 7)
local epoch, lasts, node, place, count, kind = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local PARTS_AT_ONCE, BYTES_AT_ONCE, READ_AT_ONCE = 200, 1048576, 10
local UNDONE = {compensating = true, compensated = true, compensation_failed = true}
if redis.call('EXISTS', FORK) == 1 then
  return {'exists'}
elseif redis.call('HGET', SOURCE, 'epoch') ~= epoch then
  return {'changed'}
end

local function name_of(number) return string.format('%s[%d]', node, number) end

-- The number of an item among those from `first` on that was undone.
local function undone_among(first, behind)
  local names = {}
  for number = first, behind - 1 do
    names[#names + 1] = name_of(number)
  end
  for offset, text in ipairs(redis.call('HMGET', OLD_NODES, unpack(names))) do
    if text and UNDONE[cjson.decode(text).state] then
      return first + offset - 1
    end
  end
end

local fields, failures, bytes, last = 0, 0, 0, math.min(place + PARTS_AT_ONCE, count)
if kind == 'pages' and place == 0 then  -- what a success moves the cursor of its source by, see pages.lua
  local flat, names = {}, {':page', ':cursor', ':base', ':total'}
  for number, value in ipairs(redis.call('HMGET', OLD_PARTS, unpack(names))) do
    if value then
      flat[#flat + 1], flat[#flat + 2] = names[number], value
    end
  end
  if #flat > 0 then
    redis.call('HSET', PARTS, unpack(flat))
    fields = fields + #flat / 2
  end
end
while place < last and bytes < BYTES_AT_ONCE do
  local behind, numbers, flat, failed = math.min(place + READ_AT_ONCE, last), {}, {}, {}
  for number = place, behind - 1 do
    numbers[#numbers + 1] = string.format('%d', number)
  end
  local undone = kind == 'undone' and undone_among(place, behind)
  if undone then
    return {'compensated', undone}
  end
  for offset, value in ipairs(redis.call('HMGET', OLD_PARTS, unpack(numbers))) do
    local name = name_of(place + offset - 1)
    local failure = not value and kind ~= 'pages' and redis.call('HGET', OLD_FAILURES, name)
    if value then
      flat[#flat + 1], flat[#flat + 2], bytes = numbers[offset], value, bytes + #value
    elseif failure then
      failed[#failed + 1], failed[#failed + 2] = name, failure
    else
      return {'missing', place + offset - 1}
    end
  end
  if #flat > 0 then
    redis.call('HSET', PARTS, unpack(flat))
  end
  if #failed > 0 then
    redis.call('HSET', FAILURES, unpack(failed))
  end
  fields, failures, place = fields + #flat / 2, failures + #failed / 2, behind
end
if fields > 0 then
  redis.call('PEXPIRE', PARTS, lasts)
end
if failures > 0 then
  redis.call('PEXPIRE', FAILURES, lasts)
end
return {'taken', place, fields, failures}

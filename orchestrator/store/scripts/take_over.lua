-- Copy what a run that is to be forked has of some nodes beside its fork, which begins only with fork.lua: records, outputs and
-- failures. Until then nobody sees it, and it goes away by itself.
-- KEYS    1 fork's run, 2 its nodes, 3 its outputs, 4 its failures, 5 source's run, 6 its outputs, 7 its failures
-- ARGV    1 epoch of the source, 2 how long it is kept in ms; how many 3 records, 4 outputs given in place of the source's, 5
--         output keys, 6 failures; then node and record (JSON) of each, key and output (JSON) of each, keys, nodes that failed
-- Returns {'taken', how many failures there were, key...} with the output keys that the source lacks, {'exists'} once the fork has begun, or {'changed'} if the source is
--         gone or is of another epoch.
-- TTL     that of ARGV 2. An identical second call writes the same. Begins with HSET: a full Redis refuses it.
local FORK, NODES, OUTPUTS, FAILURES, SOURCE, OLD_OUTPUTS, OLD_FAILURES = unpack(KEYS, 1, 7)
local epoch, lasts, records, given, keys, failures = unpack(ARGV, 1, 6)
local place = 6
if redis.call('EXISTS', FORK) == 1 then
  return {'exists'}
elseif redis.call('HGET', SOURCE, 'epoch') ~= epoch then
  return {'changed'}
end

-- The next arguments, so many.
local function take(count)
  local first = place + 1
  place = place + count
  return {unpack(ARGV, first, place)}
end

local function store(key, flat)
  if #flat > 0 then
    redis.call('HSET', key, unpack(flat))
    redis.call('PEXPIRE', key, lasts)
  end
end

-- Copy fields; answers how many there were, and names those that are missing.
local function copy(from, to, fields)
  local values, flat, missing = #fields > 0 and redis.call('HMGET', from, unpack(fields)) or {}, {}, {}
  for number, field in ipairs(fields) do
    if values[number] then
      flat[#flat + 1], flat[#flat + 2] = field, values[number]
    else
      missing[#missing + 1] = field
    end
  end
  store(to, flat)
  return #flat / 2, missing
end

store(NODES, take(2 * records))
store(OUTPUTS, take(2 * given))
local _, missing = copy(OLD_OUTPUTS, OUTPUTS, take(tonumber(keys)))
local found = copy(OLD_FAILURES, FAILURES, take(tonumber(failures)))
return {'taken', found, unpack(missing)}

-- Commit nodes of one position and, if they were the last of it, claim all nodes of the one behind, where nothing is out
-- of the ordinary: first attempts, no limits, no failures, nothing cancelled. What it writes is what commit.lua and
-- claim.lua write; it stands alone because making their vocabulary costs more than all of its commands. Everything else is
-- theirs. It leaves the run's next look as it is: the look finds what is claimed here as well.
-- KEYS    see keys.py, Keys.of_stretch
-- ARGV    1 run id, 2 how many are committed, 3 how many are claimed, 4 how many output keys are to be sent along; of each
--         that is committed: node, token, output key, output (JSON); tokens of those that are claimed; the output keys; then,
--         as the plan has it: its hash, holder of all, position, how many nodes it has, position behind, '1' if one process
--         works on that together, of each that is claimed: node and timeout in ms
-- Returns 0 if others are left at the position; else 1, or, where something is to be sent along, one text, which the client
--         reads fastest: a line with the length of each value (-1: there is none), then these. Or nothing, and nothing is
--         done: it is for commit.lua and claim.lua.
-- TTL     none. An identical second call finds the nodes committed and does nothing.
local RUN_ID, commits, claimed = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local TOKENS = 4 + 4 * commits
local READS = TOKENS + claimed
local FIXED = READS + ARGV[4]
local BEHIND = FIXED + 6
local plan, holder, position, size, behind, is_local = unpack(ARGV, FIXED + 1, BEHIND)
local RUN, NODES, OUTPUTS, HISTORY, HOLDERS = unpack(KEYS)
local status, own_plan, epoch, at, seq, open_before, won_before, running, detached, announced, verdict, history_limit =
  unpack(redis.call('HMGET', RUN, 'status', 'plan', 'epoch', 'position', 'seq', 'open', 'won', 'running', 'detached',
    'announced', 'verdict', 'history_limit'))
if status ~= 'running' or own_plan ~= plan or epoch ~= '1' or at ~= position or verdict and verdict ~= '' then
  return
end
local open, won = open_before - commits, won_before + commits
if open < 0 or open == 0 and (claimed == 0 or won ~= tonumber(size)) then
  return
end
claimed = open == 0 and claimed or 0

local names, done, begun = {}, {}, {}
for number = 1, commits do
  done[number] = ARGV[4 * number + 1]
  names[number] = done[number]
end
for number = 1, claimed do
  begun[number] = ARGV[BEHIND + 2 * number - 1]
  names[commits + number] = begun[number]
end
local found, records = redis.call('HMGET', NODES, unpack(names)), {}
for number = 1, commits do
  local rec = found[number] and cjson.decode(found[number])
  if not rec or rec.state ~= 'running' or rec.token ~= ARGV[4 * number + 2] or rec.holder ~= holder or rec.attempt ~= 1
    or rec.throttled then
    return
  end
  records[number] = rec
end
for number = 1, claimed do
  if found[commits + number] then
    return
  end
end

-- include: instant
-- include: records
-- include: succeed
local claims, json = HOLDERS .. ':' .. holder, cjson.encode(holder)
local outputs, rows, fields, opened, closed = {}, {}, {'seq', seq + commits}, {}, {}
for number, rec in ipairs(records) do
  local name = done[number]
  succeed(rec, rec.token, seq + number)
  outputs[2 * number - 1], outputs[2 * number] = ARGV[4 * number + 3], ARGV[4 * number + 4]
  rows[2 * number - 1], rows[2 * number] = name, cjson.encode(rec)
  closed[number] = RUN_ID .. '|' .. name
end
for number, name in ipairs(begun) do
  local token = ARGV[TOKENS + number]
  local deadline = string.format('%.0f', NOW + ARGV[BEHIND + 2 * number])
  rows[#rows + 1] = name
  rows[#rows + 1] = string.format(RUNNING, '1', '0', instant, instant, deadline, token, json)
  opened[2 * number - 1], opened[2 * number] = RUN_ID .. '|' .. name, token .. '|' .. deadline
end
local function change(field, before, value)
  if before ~= value then
    fields[#fields + 1], fields[#fields + 2] = field, value
  end
end
change('running', tonumber(running), running - commits + claimed)
redis.call('HSET', OUTPUTS, unpack(outputs))
if claimed > 0 then
  change('position', position, behind)
  change('open', tonumber(open_before), claimed)
  change('won', won_before, '0')
  change('announced', announced, detached == '1' and behind or '-1')
  change('detached', detached, is_local)
  redis.call('HSET', claims, unpack(opened))
else
  change('open', tonumber(open_before), open)
  change('won', tonumber(won_before), won)
end
redis.call('HSET', RUN, unpack(fields))
redis.call('HSET', NODES, unpack(rows))
redis.call('HDEL', claims, unpack(closed))
redis.call('XADD', HISTORY, 'MAXLEN', '~', history_limit, '*', 'succeeded', cjson.encode(done),
  'started', claimed > 0 and cjson.encode(begun) or '[]')
if claimed == 0 or FIXED == READS then
  return claimed > 0 and 1 or 0
end
local values, sizes = redis.call('HMGET', OUTPUTS, unpack(ARGV, READS + 1, FIXED)), {}
for number, value in ipairs(values) do
  sizes[number] = value and #value or -1
  values[number] = value or ''
end
return table.concat(sizes, ' ') .. '\n' .. table.concat(values)

-- Commit nodes of one position and, if they were the last of it, claim all nodes of the one behind, where nothing is out
-- of the ordinary: first attempts, no limits, no failures, nothing cancelled. What it writes is what commit.lua and
-- claim.lua write; it stands alone because making their vocabulary costs more than all of its commands. Everything else is
-- theirs.
-- KEYS    see keys.py, Keys.of_run
-- ARGV    1 run id, 2 how many are committed, 3 how many are claimed; of each that is committed: node, token, output key,
--         output (JSON); tokens of those that are claimed; then, as the plan has it: holder of all, position, how many
--         nodes it has, position behind, '1' if one process works on that together, of each that is claimed: node and
--         timeout in ms; output keys to send along
-- Returns '' if others are left at the position; else one text, which the client reads fastest: a line of 'scheduled' as
--         claim.lua has it and the length of each value (-1: there is none), then these. Or nothing, and nothing is done:
--         it is for commit.lua and claim.lua.
-- TTL     none. An identical second call finds the nodes committed and does nothing.
local RUN_ID, commits, claimed = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local TOKENS = 3 + 4 * commits
local FIXED = TOKENS + claimed
local holder, position, size, behind, is_local = unpack(ARGV, FIXED + 1, FIXED + 5)
local BEHIND = FIXED + 5
local RUN, NODES, OUTPUTS, HISTORY, PLAN, LIVE, HOLDERS = KEYS[1], KEYS[2], KEYS[3], KEYS[5], KEYS[6], KEYS[7], KEYS[9]
local run = redis.call('HMGET', RUN, 'status', 'plan', 'epoch', 'position', 'seq', 'detached', 'verdict', 'scheduled',
  'history_limit', 'open', 'won', 'running')
if run[1] ~= 'running' or run[3] ~= '1' or run[4] ~= position or run[7] and run[7] ~= ''
  or string.sub(PLAN, -#run[2]) ~= run[2] then
  return
end
local open, won = run[10] - commits, run[11] + commits
if open < 0 or open == 0 and (claimed == 0 or won ~= tonumber(size)) then
  return
end
claimed = open == 0 and claimed or 0

local names = {}
for number = 1, commits do
  names[number] = ARGV[4 * number]
end
for number = 1, claimed do
  names[commits + number] = ARGV[BEHIND + 2 * number - 1]
end
local texts, records = redis.call('HMGET', NODES, unpack(names)), {}
for number = 1, commits do
  local rec = texts[number] and cjson.decode(texts[number])
  if not rec or rec.state ~= 'running' or rec.token ~= ARGV[4 * number + 1] or rec.holder ~= holder or rec.attempt ~= 1
    or rec.throttled then
    return
  end
  records[number] = rec
end
for number = 1, claimed do
  if texts[commits + number] then
    return
  end
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local instant, own_claims = string.format('%.0f', now), HOLDERS .. ':' .. holder
local outputs, rows, left, begun = {}, {}, {}, {}
for number, rec in ipairs(records) do
  local name = names[number]
  rec.state, rec.stored, rec.ended, rec.seq, rec.token, rec.holder, rec.deadline =
    'succeeded', rec.token, now, run[5] + number, nil, nil, nil
  outputs[2 * number - 1], outputs[2 * number] = ARGV[4 * number + 2], ARGV[4 * number + 3]
  rows[2 * number - 1], rows[2 * number] = name, cjson.encode(rec)
  left[number] = RUN_ID .. '|' .. name
end
local written_holder = claimed > 0 and cjson.encode(holder)
for number = 1, claimed do
  local name, token = names[commits + number], ARGV[TOKENS + number]
  local deadline = string.format('%.0f', now + ARGV[BEHIND + 2 * number])
  rows[#rows + 1] = name
  rows[#rows + 1] = string.format('{"state":"running","attempt":1,"generation":0,"since":%s,"started":%s,"deadline":%s,'
    .. '"token":"%s","holder":%s}', instant, instant, deadline, token, written_holder)
  begun[2 * number - 1], begun[2 * number] = RUN_ID .. '|' .. name, token .. '|' .. deadline
end
redis.call('HSET', OUTPUTS, unpack(outputs))
if claimed > 0 then
  redis.call('HSET', RUN, 'seq', run[5] + commits, 'running', run[12] - commits + claimed, 'position', behind,
    'open', claimed, 'won', 0, 'announced', run[6] == '1' and behind or -1, 'detached', is_local)
  redis.call('HSET', own_claims, unpack(begun))
else
  redis.call('HSET', RUN, 'seq', run[5] + commits, 'running', run[12] - commits, 'open', open, 'won', won)
end
redis.call('HSET', NODES, unpack(rows))
redis.call('HDEL', own_claims, unpack(left))
for number, name in ipairs(names) do
  redis.call('XADD', HISTORY, 'MAXLEN', '~', run[9], '*', 'event', number <= commits and 'succeeded' or 'started',
    'node', name, 'attempt', 1)
end
redis.call('ZADD', LIVE, now + 1000, RUN_ID)
if claimed == 0 then
  return ''
end
local READS = BEHIND + 2 * claimed + 1
local values, told = ARGV[READS] and redis.call('HMGET', OUTPUTS, unpack(ARGV, READS)) or {}, {run[8] or ''}
for number, value in ipairs(values) do
  told[number + 1] = value and #value or -1
  values[number] = value or ''
end
return table.concat(told, ' ') .. '\n' .. table.concat(values)

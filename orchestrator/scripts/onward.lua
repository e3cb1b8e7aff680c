-- Commit a node and claim the one behind it, or an item and the next one, where nothing is out of the ordinary: the first
-- attempt of both, no limits, nothing cancelled, nobody else at the step. What it writes is what commit.lua and claim.lua
-- write; it stands alone because making their vocabulary costs more than all of its commands. Everything else is theirs.
-- KEYS    see keys.py, Keys.of_run
-- ARGV    1 run id, 2 node or item, 3 its token, 4 output (JSON), 5 token of the one behind it,
--         6 its output key, 7 position of its step, 8 the node behind it, 9 that one's position (of items both are the
--         map's), 10 holder of both, 11 that one's timeout in ms, 12 of items: how many may run at once, else '',
--         13... output keys to send along
-- Returns what claim.lua does of the node that runs now, as one text, which the client reads fastest: a line of index,
--         scheduled, the length of the item and of each value (-1: there is none), then these. Or nothing, and nothing
--         is done: it is for commit.lua and claim.lua.
-- TTL     none. An identical second call finds the node committed and does nothing.
local RUN_ID, node, token, follower, position, behind = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[7], ARGV[8]
local RUN, NODES, OUTPUTS, HISTORY, PLAN, LIVE, HOLDERS = KEYS[1], KEYS[2], KEYS[3], KEYS[5], KEYS[6], KEYS[7], KEYS[9]
local width = tonumber(ARGV[12])
local run = redis.call('HMGET', RUN, 'status', 'plan', 'epoch', 'position', 'seq', 'detached', 'verdict', 'scheduled',
  'history_limit', 'open', 'won', 'running', 'map_count', 'map_next')
if run[1] ~= 'running' or run[3] ~= '1' or run[4] ~= position or run[7] and run[7] ~= ''
  or string.sub(PLAN, -#run[2]) ~= run[2] then
  return
end
local open, next_index, index = tonumber(run[10]), tonumber(run[14]), nil
if width then
  if open < 2 or tonumber(run[12]) > width or next_index >= tonumber(run[13])
    or redis.call('EXISTS', RUN .. ':again') == 1 then
    return
  end
  index = string.match(node, '%[(%d+)%]$')
  behind = string.format('%s[%.0f]', behind, next_index)
elseif open ~= 1 or run[6] ~= '0' then
  return
end
local texts = redis.call('HMGET', NODES, node, behind)
local rec = texts[1] and not texts[2] and cjson.decode(texts[1])
if not rec or rec.state ~= 'running' or rec.token ~= token or rec.holder ~= ARGV[10] or rec.attempt ~= 1 or rec.throttled
  or rec.buckets then
  return
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local instant, seq, deadline = string.format('%.0f', now), tonumber(run[5]) + 1, string.format('%.0f', now + ARGV[11])
local running = string.format('{"state":"running","attempt":1,"generation":0,"since":%s,"started":%s,"deadline":%s,'
  .. '"token":"%s","holder":%s}', instant, instant, deadline, follower, cjson.encode(ARGV[10]))
if width then
  local items = RUN .. ':open'
  redis.call('HSET', RUN .. ':results:' .. ARGV[8], index, ARGV[4])
  redis.call('HSET', RUN, 'seq', seq, 'open', open - 1, 'won', run[11] + 1, 'map_next', next_index + 1,
    'map_pulled', instant, 'map_looks', 0)
  redis.call('HSET', NODES, behind, running)
  redis.call('HDEL', NODES, node)
  redis.call('SREM', items, node)
  redis.call('SADD', items, behind)
else
  rec.state, rec.stored, rec.ended, rec.seq, rec.token, rec.holder, rec.deadline = 'succeeded', token, now, seq, nil, nil, nil
  redis.call('HSET', OUTPUTS, ARGV[6], ARGV[4])
  redis.call('HSET', RUN, 'seq', seq, 'position', ARGV[9], 'open', 1, 'won', 0, 'announced', -1)
  redis.call('HSET', NODES, node, cjson.encode(rec), behind, running)
  redis.call('XADD', HISTORY, 'MAXLEN', '~', run[9], '*', 'event', 'succeeded', 'node', node, 'attempt', 1)
  redis.call('XADD', HISTORY, 'MAXLEN', '~', run[9], '*', 'event', 'started', 'node', behind, 'attempt', 1)
end
local claims = HOLDERS .. ':' .. ARGV[10]
redis.call('HSET', claims, RUN_ID .. '|' .. behind, follower .. '|' .. deadline)
redis.call('HDEL', claims, RUN_ID .. '|' .. node)
redis.call('ZADD', LIVE, now + 1000, RUN_ID)
local found = ARGV[13] and redis.call('HMGET', OUTPUTS, unpack(ARGV, 13)) or {}
table.insert(found, 1, width and redis.call('HGET', RUN .. ':items:' .. ARGV[8], next_index) or '')
local told = {width and next_index or '', run[8] or ''}
for number, value in ipairs(found) do
  told[number + 2] = value and #value or -1
  found[number] = value or ''
end
return table.concat(told, ' ') .. '\n' .. table.concat(found)

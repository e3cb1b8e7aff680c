-- Commit an item of a map and claim the next one, where nothing is out of the ordinary: the first attempt of both, no
-- limits, no compensations, nothing cancelled, nothing to be repeated, and not the last one. It stands alone and writes
-- what commit.lua and claim.lua write, for the reason that commit_and_claim.lua gives. Everything else is theirs.
-- KEYS    see keys.py, Keys.of_run
-- ARGV    1 run id, 2 item, 3 its token, 4 output (JSON), 5 token of the next one,
--         6 holder of both, 7 position of the map, 8 its node, 9 timeout in ms, 10 how many items may run at once
-- Returns {index, item, scheduled} of the one that runs now; or nothing, and nothing is done.
-- TTL     none. An identical second call finds the item committed and does nothing.
local RUN_ID, item, token, follower, holder, node = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[6], ARGV[8]
local RUN, NODES, PLAN, LIVE, HOLDERS = KEYS[1], KEYS[2], KEYS[6], KEYS[7], KEYS[9]
local run = redis.call('HMGET', RUN, 'status', 'plan', 'epoch', 'position', 'seq', 'verdict', 'scheduled', 'open', 'won',
  'running', 'map_count', 'map_next')
if run[1] ~= 'running' or run[3] ~= '1' or run[4] ~= ARGV[7] or run[6] and run[6] ~= ''
  or string.sub(PLAN, -#run[2]) ~= run[2] then
  return
end
local open, next_index = tonumber(run[8]), tonumber(run[12])
if open < 2 or tonumber(run[10]) > tonumber(ARGV[10]) or next_index >= tonumber(run[11])
  or redis.call('EXISTS', RUN .. ':again') == 1 then
  return
end
local behind = string.format('%s[%.0f]', node, next_index)
local text = redis.call('HGET', NODES, item)
local rec = text and cjson.decode(text)
if not rec or rec.state ~= 'running' or rec.token ~= token or rec.holder ~= holder or rec.attempt ~= 1 or rec.throttled then
  return
end

-- include: instant
-- include: records
local deadline = string.format('%.0f', NOW + ARGV[9])
local claims = HOLDERS .. ':' .. holder
redis.call('HSET', RUN .. ':results:' .. node, string.match(item, '%[(%d+)%]$'), ARGV[4])
redis.call('HSET', RUN, 'seq', run[5] + 1, 'open', open - 1, 'won', run[9] + 1, 'map_next', next_index + 1,
  'map_pulled', instant, 'map_looks', 0)
redis.call('HSET', NODES, behind, string.format(RUNNING, '1', '0', instant, instant, deadline, follower, cjson.encode(holder)))
redis.call('HDEL', NODES, item)
redis.call('HSET', claims, RUN_ID .. '|' .. behind, follower .. '|' .. deadline)
redis.call('HDEL', claims, RUN_ID .. '|' .. item)
redis.call('SADD', RUN .. ':open', behind)
redis.call('SREM', RUN .. ':open', item)
redis.call('ZADD', LIVE, NOW + 1000, RUN_ID)
return {next_index, redis.call('HGET', RUN .. ':items:' .. node, next_index), run[7] or ''}

-- Items of a map without limits and compensations: the first attempt of one is committed and the next one is claimed, if that
-- is not the last, and none is to be repeated. It writes what the library would, and breaks off before it has written anything.
repeat
  if fast_path ~= 'items' or not is_first or reads ~= '0' then
    break
  end
  local node, timeout = ARGV[FOLLOWERS_AT + 1], ARGV[FOLLOWERS_AT + 2]
  local more = nil
  -- include: load_run seq open won map_count map_next
  local item, token, _, output = unpack(ARGV, NODES_AT + 1, NODES_AT + 4)
  if tonumber(open) < 2 or tonumber(running) > tonumber(size) or tonumber(map_next) >= tonumber(map_count)
    or redis.call('EXISTS', RUN .. ':again') == 1 then
    break
  end
  local text = redis.call('HGET', NODES, item)
  -- include: fence
  local value = redis.call('HGET', RUN .. ':items:' .. node, map_next)
  if not rec or rec.holder ~= holder or not value then
    break
  end

  -- include: instant
  -- include: records
  local follower, next_token = node .. '[' .. map_next .. ']', ARGV[CLAIMS_AT + 1]
  local deadline, open_claims = string.format('%d', NOW + timeout), HOLDERS .. ':' .. holder
  redis.call('HSET', RUN .. ':results:' .. node, string.match(item, '%[(%d+)%]$'), output)
  redis.call('HSET', RUN, 'seq', seq + 1, 'open', open - 1, 'won', won + 1, 'map_next', map_next + 1, 'map_pulled', instant,
    'map_looks', '0')
  redis.call('HSET', NODES, follower,
    string.format(RUNNING, '1', '0', instant, instant, deadline, next_token, cjson.encode(holder)))
  redis.call('HDEL', NODES, item)
  redis.call('HSET', open_claims, RUN_ID .. '|' .. follower, next_token .. '|' .. deadline)
  redis.call('HDEL', open_claims, RUN_ID .. '|' .. item)
  redis.call('SADD', RUN .. ':open', follower)
  redis.call('SREM', RUN .. ':open', item)
  redis.call('ZADD', LIVE, NOW + 1000, RUN_ID)
  return '1 0 ' .. (scheduled or '') .. ' ' .. map_next .. '\n' .. #value .. '\n' .. value
until true

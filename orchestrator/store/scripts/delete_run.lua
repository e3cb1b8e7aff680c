-- Forget an ended run before its retention is over: its keys, its idempotency key, and its place in every index.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    none but the run id
-- Returns {'deleted'}, {'not ended', status}, {'kept'} of a child whose root has not ended, or {'unknown'}.
-- TTL     none. A second call is 'unknown'. Begins with ZREM: it passes in a full Redis.
if not load_run() then
  return {'unknown'}
end
if not is_ended() then
  return {'not ended', run.status}
end
if children.is_child() and not children.is_root_over() then
  return {'kept'}
end
redis.call('ZREM', INDEX .. ':status:' .. FAMILY .. run.status, RUN_ID)
redis.call('ZREM', INDEX .. ':flow:' .. run.flow .. ':' .. FAMILY .. run.status, RUN_ID)
redis.call('ZREM', INDEX .. ':flow:' .. run.flow, RUN_ID)  -- of version 0.1.0
redis.call('ZREM', EXPIRING, run.status .. '|' .. run.flow .. '|' .. RUN_ID)
for suffix in string.gmatch(run.indexes or '', '%S+') do
  redis.call('ZREM', INDEX .. ':' .. suffix, RUN_ID)
  redis.call('ZREM', INDEX .. ':expiring_tags', suffix .. '|' .. RUN_ID)
end
if run.idem ~= '' and redis.call('HGET', run.idem, 'run') == RUN_ID then
  redis.call('DEL', run.idem)
end
if plan_fact('children') then  -- what has not been given a lifetime yet is given one all the same
  for _, id in ipairs(redis.call('ZRANGE', children.CHILDREN, 0, -1)) do
    redis.call('ZADD', TIMERS, instant, id .. '|' .. children.TREE)
  end
end
for _, key in ipairs(finish.own_keys()) do
  redis.call('UNLINK', key)  -- a record of 100,000 items is freed in the background
end
return {'deleted'}

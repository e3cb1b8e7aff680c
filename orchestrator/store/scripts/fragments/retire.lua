-- What is kept of a run that ended with the status `after`: everything of it (own_keys) gets the retention in ms as its lifetime.
-- Uses NOW, RUN_ID, the keys and what the run says: flow, retention, idempotency and indexes.
for _, key in ipairs(own_keys) do
  redis.call('PEXPIRE', key, retention)
end
if (idempotency or '') ~= '' then
  redis.call('PEXPIRE', idempotency, retention)
end
redis.call('ZADD', EXPIRING, NOW + retention, after .. '|' .. flow .. '|' .. RUN_ID)
for suffix in string.gmatch(indexes or '', '%S+') do
  redis.call('ZADD', INDEX .. ':expiring_tags', NOW + retention, suffix .. '|' .. RUN_ID)
end
-- An earlier run may have had a longer retention: the plan lives as long as the last of its runs.
local kept = math.max(tonumber(redis.call('HGET', PLAN, 'kept') or 0), NOW + retention)
redis.call('HSET', PLAN, 'kept', string.format('%d', kept))
if redis.call('HINCRBY', PLAN, 'live', '-1') <= 0 and redis.call('HEXISTS', PLAN, 'announced') == 0 then
  redis.call('PEXPIREAT', PLAN, string.format('%d', kept))
end

-- The run has ended with the status `after`: nothing of it is indexed as live, everything of it (own_keys) gets the retention
-- in ms as its lifetime, and monitors, workers and waiting clients are told. Uses NOW, RUN_ID, the keys, note, emit and what the
-- run says: flow, created, retention, idempotency, deadline and indexes.
note('run-' .. after)
redis.call('ZREM', LIVE, RUN_ID)
if deadline then
  redis.call('ZREM', TIMERS, RUN_ID .. '|')
end
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
local ends = EVENTS .. ':' .. math.floor(NOW / 86400000)
if redis.call('HINCRBY', ends, math.floor(NOW / 3600000) .. '|' .. flow .. '|' .. after, 1) == 1 then
  redis.call('PEXPIRE', ends, 691200000)
end
-- An earlier run may have had a longer retention: the plan lives as long as the last of its runs.
local kept = math.max(tonumber(redis.call('HGET', PLAN, 'kept') or 0), NOW + retention)
redis.call('HSET', PLAN, 'kept', string.format('%d', kept))
if redis.call('HINCRBY', PLAN, 'live', '-1') <= 0 and redis.call('HEXISTS', PLAN, 'announced') == 0 then
  redis.call('PEXPIREAT', PLAN, string.format('%d', kept))
end
emit(after, flow, string.format('%d', NOW - created))
redis.call('PUBLISH', DONE, after)

-- The run has ended, and its status says so: nothing of it is indexed as live, everything of it gets the retention in ms as
-- its lifetime, and monitors, workers and whoever waits for it are told. Uses NOW, RUN_ID, the keys, note and emit.
local function end_run(status, own_keys, flow, created, retention, idempotency)
  note('run-' .. status)
  redis.call('ZREM', LIVE, RUN_ID)
  redis.call('ZREM', TIMERS, RUN_ID .. '|')
  for _, key in ipairs(own_keys) do
    redis.call('PEXPIRE', key, retention)
  end
  if (idempotency or '') ~= '' then
    redis.call('PEXPIRE', idempotency, retention)
  end
  redis.call('ZADD', EXPIRING, NOW + retention, status .. '|' .. flow .. '|' .. RUN_ID)
  -- An earlier run may have had a longer retention: the plan lives as long as the last of its runs.
  local kept = math.max(tonumber(redis.call('HGET', PLAN, 'kept') or 0), NOW + retention)
  redis.call('HSET', PLAN, 'kept', string.format('%.0f', kept))
  if redis.call('HINCRBY', PLAN, 'live', -1) <= 0 and redis.call('HEXISTS', PLAN, 'announced') == 0 then
    redis.call('PEXPIREAT', PLAN, string.format('%.0f', kept))
  end
  emit(status, flow, string.format('%.0f', NOW - created))
  redis.call('PUBLISH', DONE, status)
end

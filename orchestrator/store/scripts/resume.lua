-- Take up an ended run again: what is missing of its rollback, or forward from what succeeded and was not undone.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 token of this call
-- Returns {'resumed', what to publish...}, {'not ended', status} or {'unknown'}.
-- TTL     taken off the run's keys. A second call with the same token answers 'resumed' and leaves what is to be
--         published to the reconciler; with another token it is 'not ended'.
local token = ARGV[2]
if not load_run() then
  return {'unknown'}
end
if redis.call('HGET', RUN, 'resumed_by') == token then
  return {'resumed'}
end
if run.status ~= 'failed' and run.status ~= 'cancelled' and run.status ~= 'compensation_failed' then
  return {'not ended', run.status}
end
redis.call('HSET', RUN, 'epoch', string.format('%.0f', tonumber(run.epoch) + 1), 'resumed_by', token)
redis.call('ZREM', EXPIRING, run.status .. '|' .. run.flow .. '|' .. RUN_ID)
for suffix in string.gmatch(run.indexes or '', '%S+') do
  redis.call('ZREM', INDEX .. ':expiring_tags', suffix .. '|' .. RUN_ID)
end
run.epoch = string.format('%.0f', tonumber(run.epoch) + 1)
redis.call('PERSIST', PLAN)
if run.idem ~= '' then
  redis.call('PERSIST', run.idem)
end
for _, key in ipairs(finish.own_keys()) do
  redis.call('PERSIST', key)
end
redis.call('HINCRBY', PLAN, 'live', 1)
redis.call('HDEL', RUN, 'finished')
note('resumed')
finish.emit('resumed', run.flow)
redis.call('HDEL', RUN, 'saga')
run.saga = false
if run.status == 'compensation_failed' then
  set_status('compensating')
  return reply('resumed', announced(portions.begin_saga('again')))
end

redis.call('HDEL', RUN, 'verdict', 'error')
portions.drop_list(SAGA)
run.verdict = false
local timeout = tonumber(redis.call('HGET', RUN, 'timeout'))
if timeout > 0 then
  set_run({deadline = NOW + timeout})
  redis.call('ZADD', TIMERS, NOW + timeout, RUN_ID .. '|')
  wake_leader(NOW + timeout)
end
set_run({position = 0})  -- until it is known how far the run has come, nobody finds anything to be done there
set_status('running')
return reply('resumed', announced(portions.reset(0, 0)))

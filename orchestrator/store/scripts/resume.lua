-- Take up a run again: one that is paused, in its epoch, with fresh attempts for what is exhausted; one that has ended, in a new
-- epoch: what is missing of its rollback, or forward from what succeeded and was not undone.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 token of this call
-- Returns {'resumed', what to publish...}, {'continued', what to publish...} of a paused run, {'not ended', status} or {'unknown'}.
-- TTL     taken off the run's keys. A second call with the same token answers 'resumed' and leaves what is to be
--         published to the reconciler; with another token it is 'not ended'.
local token = ARGV[2]
if not load_run() then
  return {'unknown'}
end
if redis.call('HGET', RUN, 'resumed_by') == token then
  return {'resumed'}
end
if run.status == 'paused' then
  redis.call('HSET', RUN, 'resumed_by', token)
  return reply('continued', pauses.go_on())
end
if run.status ~= 'failed' and run.status ~= 'cancelled' and run.status ~= 'compensation_failed' then
  return {'not ended', run.status}
end
finish.reopen(token)
note('resumed')
finish.emit('resumed', run.flow)
redis.call('HDEL', RUN, 'saga', 'owes')
run.saga, run.owes = false, false
if run.status == 'compensation_failed' then
  if run.lane then
    lanes.take()  -- a rollback waits for nobody
  end
  set_status('compensating')
  return reply('resumed', announced(portions.begin_saga('again')))
end

redis.call('HDEL', RUN, 'verdict', 'error')
portions.drop_list(SAGA)
run.verdict = false
set_run({position = 0})  -- until it is known how far the run has come, nobody finds anything to be done there
if run.lane and not lanes.return_to() then
  set_status('pending')
  return {'resumed'}
end
local timeout = tonumber(redis.call('HGET', RUN, 'timeout'))
if timeout > 0 then
  set_run({deadline = NOW + timeout})
  redis.call('ZADD', TIMERS, NOW + timeout, RUN_ID .. '|')
  wake_leader(NOW + timeout)
end
set_status('running')
return reply('resumed', announced(portions.restart()))

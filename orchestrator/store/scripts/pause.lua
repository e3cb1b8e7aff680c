-- Hold a run: what runs is finished, and nothing of it starts until it is resumed. Timers, wait queues and its timeout go on.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 the reason
-- Returns {'paused'}, {'too late'} of a run that is ending or has ended, or {'unknown'}.
-- TTL     none while the run lives. A second call answers 'paused' and writes nothing.
local reason = ARGV[2]
if not load_run() then
  return {'unknown'}
end
if run.verdict or is_ended() then
  return {'too late'}
end
if is_held() then
  return {'paused'}
end
redis.call('HSET', RUN, 'held', '1', 'paused_at', instant, 'paused_for', reason)
set_run({held = '1'})
-- Its members will find the run held and leave without being counted, so that no chord may join them.
if step_kinds[plan_step(run.position).kind].has_chord then
  set_run({detached = '1'})
end
note('paused', '', 0, reason)
set_status('paused')
return {'paused'}

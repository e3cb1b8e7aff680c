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
pauses.hold(reason)
return {'paused'}

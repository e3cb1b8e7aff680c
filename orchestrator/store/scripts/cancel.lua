-- Give a run the verdict that nothing new starts: a cancel, or the end of the run's time.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 verdict ('cancelled', or 'failed' for a run out of time), 3 failure (JSON),
--         4 '1' only if its deadline has passed
-- Returns {'ending', what to publish...}, {'too late'} when the run has a verdict or has ended, {'too early'} when its
--         deadline has not passed, {'broken'} when its plan or its records are gone: abandon.lua ends it, or {'unknown'}.
-- TTL     none while the run lives. An identical second call is 'too late'. Begins with ZREM: it passes in a full Redis.
local verdict, failure, only_late = ARGV[2], ARGV[3], ARGV[4] == '1'
if not load_run() then
  redis.call('ZREM', TIMERS, RUN_ID .. '|')
  return {'unknown'}
end
if only_late then
  local deadline = tonumber(redis.call('HGET', RUN, 'deadline') or 0)
  if deadline > NOW then
    return {'too early'}
  end
end
local is_whole = redis.call('HEXISTS', PLAN, 'text') == 1 and (redis.call('EXISTS', NODES) == 1 or run.queued)
if not is_whole and not is_ended() then
  return {'broken'}
end
redis.call('ZREM', TIMERS, RUN_ID .. '|')
if run.verdict or is_ended() then
  return {'too late'}
end
abort.begin(verdict, failure)
return reply('ending', announced(abort.when_quiet()))

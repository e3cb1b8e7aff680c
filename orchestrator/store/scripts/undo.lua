-- Undo a run that has succeeded: its compensations run, last completed first, and it ends as cancelled.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 token of this call, 3 failure (JSON) that says why
-- Returns {'undone', what to publish...}, {'not succeeded', status} or {'unknown'}.
-- TTL     taken off the run's keys. A second call with the same token answers 'undone' and leaves what is to be published to the
--         reconciler; with another token it is 'not succeeded'. The cursors that its success has moved stay where they are.
local token, failure = ARGV[2], ARGV[3]
if not load_run() then
  return {'unknown'}
end
if redis.call('HGET', RUN, 'resumed_by') == token then
  return {'undone'}
end
if run.status ~= 'succeeded' then
  return {'not succeeded', run.status}
end
finish.reopen(token)
if run.lane then
  lanes.take()  -- a rollback waits for nobody
end
set_run({verdict = 'cancelled', error = failure})
note('run-ending', '', 0, 'cancelled')
set_status('compensating')
return reply('undone', announced(portions.begin_saga('undo')))

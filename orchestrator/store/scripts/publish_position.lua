-- Answer, once, the nodes of a position (or of the saga) that nobody has published yet.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 epoch, 3 position, or 'saga'
-- Returns {'announced', what to publish...}, or {'nothing'}, or {'unknown'}.
-- TTL     none while the run lives. An identical second call answers 'nothing'.
local epoch, position = ARGV[2], ARGV[3]
if not load_run() then
  return {'unknown'}
end
if run.epoch ~= epoch or is_ended() then
  return {'nothing'}
end
if position == 'saga' then
  if not run.saga or run.running > 0 or run.announced == run.saga_at then
    return {'nothing'}
  end
  local work = abort.saga_work()
  return work.kind == '' and {'nothing'} or reply('announced', announced(work))
end
if run.verdict or run.position ~= tonumber(position) or run.announced == run.position then
  return {'nothing'}
end
local step = plan_step(run.position)
local work = step_kinds[step.kind].ready(step, 'step')
return work.kind == '' and {'nothing'} or reply('announced', announced(work))

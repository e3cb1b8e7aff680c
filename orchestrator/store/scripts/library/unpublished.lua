-- What a repeated call has to publish: what the first one made publishable, if nobody has claimed it yet. A position
-- that the first one left to Celery was not announced.
local function left_over(facts, follows)
  if is_ended() then
    return nothing()
  end
  if portions.unfinished() then
    return portions.more()
  end
  if run.saga then
    return facts.kind == 'compensation' and follows and nothing() or abort.saga_work()
  end
  if run.verdict or facts.step == run.position or (follows and run.announced ~= run.position) then
    return nothing()
  end
  local step = plan_step(run.position)
  return step_kinds[step.kind].ready(step, 'nodes')
end

return {left_over = left_over}

-- What is to be published once more: of a position, or for a call that repeats another.

-- Those of some nodes that nobody has claimed, with the instant since which the first of them is ready.
local function ready_nodes(kind, step)
  if step.kind == 'map' then
    return maps.work(step, run.running)
  end
  local names = step.nodes
  local work = {kind = kind, position = run.position, names = {}}
  for _, name in ipairs(names) do
    local rec = record(name)
    if rec and rec.state == 'ready' then
      work.names[#work.names + 1] = name
      work.since = math.min(work.since or NOW, rec.since)
    end
  end
  return #work.names > 0 and work or nothing()
end

-- What a repeated call has to publish: what the first one made publishable, if nobody has claimed it yet. A position
-- that the first one left to Celery was not announced.
local function left_over(facts, follows)
  if is_ended() then
    return nothing()
  end
  if run.saga then
    return facts.kind == 'compensation' and follows and nothing() or abort.saga_work()
  end
  if run.verdict or facts.step == run.position or (follows and run.announced ~= run.position) then
    return nothing()
  end
  return ready_nodes('nodes', plan_step(run.position))
end

return {ready_nodes = ready_nodes, left_over = left_over}

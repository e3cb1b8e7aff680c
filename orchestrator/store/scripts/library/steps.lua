-- How a run gets on: entering a position, joining it, going to the next one; what becomes ready is answered to be published.

-- The position that follows a step; of a branch, the one that its recorded decision chose.
local function following(step)
  return #step.branches > 0 and step.branches[record(step.nodes[1]).choice + 1] or step.next
end

-- Fewer members succeeded than the step requires.
local function fail_join(step)
  abort.begin('failed', abort.failure_of('orchestrator.errors.RunError',
    string.format('step %s: %d of %d nodes succeeded, %d are required', step.name, run.won,
      step_kinds[step.kind].count(step), step.require)))
  return abort.when_quiet()
end

-- Make the members of a position ready, passing over what is already done; past the last position the run succeeds. The run
-- stands at a position that is done meanwhile.
local function enter(position)
  while position ~= END do
    if room <= 0 then
      return portions.pause('enter', position)
    end
    local step = plan_step(position)
    local kind = step_kinds[step.kind]
    room = room - #step.nodes
    local work = kind.enter(position, step)
    if work then
      return work
    end
    kind.leave(step)
    position = following(step)
  end
  return finish.finish('succeeded')
end

-- The caller publishes a position only once it is noted here, so that a second message for the same work publishes nothing.
local function announced(work)
  if work.kind == 'step' then
    set_run({announced = work.position})
  elseif work.kind == 'saga' then
    set_run({announced = run.saga_at})
  end
  return work
end

-- A member has ended for good; the join is counted. Returns what became ready.
local function count_join(step, succeeded)
  set_run({open = run.open - 1, won = run.won + (succeeded and 1 or 0)})
  touch()
  if run.open > 0 then
    return nothing()
  end
  local kind = step_kinds[step.kind]
  local work = kind.join(step)
  if work then
    return work
  end
  if run.won < step.require then
    return fail_join(step)
  end
  kind.leave(step)
  return enter(following(step))
end

-- The chord of a parallel step will not count this member: from now on only the stored join says who goes on.
local function detach(facts)
  if run.detached ~= '1' and facts.kind == 'node' and step_kinds[plan_step(facts.step).kind].has_chord then
    set_run({detached = '1'})
  end
end

-- Celery goes from a step that is not detached to the one that follows it, and to no other: not past steps that an
-- earlier epoch has done.
local function celery_goes_on(facts, was_detached, work)
  return facts.kind ~= 'item' and not was_detached and work.kind == 'step' and work.position == following(plan_step(facts.step))
end

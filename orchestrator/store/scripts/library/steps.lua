-- How a run gets on: entering a position, joining it, ending early, undoing; what becomes ready is answered to be published.
-- It is put behind transition.lua, and so are the modules, which are made when they are first asked for.

-- The position that follows a step; of a branch, the one that its recorded decision chose.
local function following(step)
  if step.kind ~= 'branch' then
    return step.next
  end
  return step.branches[record(step.nodes[1]).choice + 1]
end

-- Fewer members succeeded than the step requires.
local function fail_join(step)
  abort.begin('failed', abort.failure_of('orchestrator.errors.RunError',
    string.format('step %s: %d of %d nodes succeeded, %d are required', step.name, run.won,
      step.kind == 'map' and run.map_count or #step.nodes, step.require)))
  return abort.when_quiet()
end

-- Make the members of a position ready, passing over what is already done; past the last position the run succeeds.
local function enter(position)
  while position ~= END do
    local step = plan_step(position)
    local names, open, won = {}, 0, 0
    if step.kind == 'map' then
      local work = maps.enter(position, step)
      if work.kind ~= '' then
        return work
      end
      if run.won < step.require then
        return fail_join(step)
      end
      maps.leave(step)
    end
    for _, name in ipairs(step.kind ~= 'map' and step.nodes or {}) do
      local rec = record(name)
      if rec and rec.state == 'succeeded' then
        won = won + 1
      else
        open = open + 1
        names[open] = name
        save_ready(name, rec and rec.generation)
      end
    end
    if open > 0 then
      local singles = step.kind == 'parallel'
        and (run.chords ~= '1' or won > 0 or open > LARGE_STEP or run.epoch ~= '1' or step['local'])
      set_run({position = position, open = open, won = won, announced = END, detached = singles and '1' or '0'})
      touch()
      return {kind = 'step', position = position, names = names}
    end
    position = following(step)
  end
  finish.finish('succeeded')
  return nothing()
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

-- A member has ended for good; the join is counted. Returns what became ready and whether it was the last member.
local function count_join(step, succeeded)
  set_run({open = run.open - 1, won = run.won + (succeeded and 1 or 0)})
  touch()
  if run.open > 0 then
    return nothing(), false
  end
  if run.won < step.require then
    return fail_join(step), true
  end
  if step.kind == 'map' then
    maps.leave(step)
  end
  return enter(following(step)), true
end

-- The chord of a parallel step will not count this member: from now on only the stored join says who goes on.
local function detach(facts)
  if run.detached ~= '1' and facts.kind == 'node' and plan_step(facts.step).kind == 'parallel' then
    set_run({detached = '1'})
  end
end

-- Celery goes from a step that is not detached to the one that follows it, and to no other: not past steps that an
-- earlier epoch has done.
local function celery_goes_on(facts, was_detached, work)
  return facts.kind ~= 'item' and not was_detached and work.kind == 'step' and work.position == following(plan_step(facts.step))
end

-- Standing still until somebody goes on: a run that is held, and nodes whose attempts are exhausted and whose policy is to wait.
-- A run with either has the status `paused`, which no fast path knows; it is neither ending nor ended. Of one with paused nodes
-- the others go on; of a held one nothing starts, and only what runs is finished.

-- Whether a node whose attempts are exhausted stands instead of failing.
local function has_to_stand(facts) return facts.pauses and not run.verdict and facts.kind ~= 'compensation' end

local function stand(node, rec, facts, detail)
  rec.state = 'paused'
  save(node, rec)
  note('paused', node, rec.attempt, detail)
  detach(facts)
  touch()
  if run.status == 'running' then
    set_status('paused')
  end
end

-- Give the paused nodes of the run's position fresh attempts, from a place among its members on, and say what is ready then.
local function release(place)
  local step = plan_step(run.position)
  local kind, names = step_kinds[step.kind], nil
  repeat
    names, place = kind.members(step, place, room)
    room = room - #names
    read_records(names)
    for _, name in ipairs(names) do
      local rec = record(name)
      if rec and rec.state == 'paused' then
        redis.call('HDEL', FAILURES, name)
        save_ready(name, rec.generation, step.deadlines and step.deadlines[name])
        if rec.secret then  -- somebody may have its callback
          record(name).secret = rec.secret
          save(name, record(name))
        end
        maps.repeated(name, plan_node(name))
      end
    end
  until not place or room <= 0
  if place then
    return portions.pause('release', place)
  end
  touch()
  return kind.ready(step, 'nodes')
end

-- Hold the run, and its open children.
local function hold(reason)
  redis.call('HSET', RUN, 'held', '1', 'paused_at', instant, 'paused_for', reason)
  set_run({held = '1'})
  -- Its members will find the run held and leave without being counted, so that no chord may join them.
  if step_kinds[plan_step(run.position).kind].has_chord then
    set_run({detached = '1'})
  end
  note('paused', '', 0, reason)
  set_status('paused')
  if plan_fact('children') then
    children.call_tree()
  end
end

-- Take up the paused run again, in its epoch, and the children that were held with it.
local function go_on()
  redis.call('HDEL', RUN, 'held', 'held_by_parent', 'paused_at', 'paused_for')
  note('continued')
  finish.emit('resumed', run.flow)
  run.held = false
  set_status(run.queued and 'pending' or 'running')
  if plan_fact('children') then
    children.call_tree()
  end
  -- Of a run that was held between two portions nothing else has been done: what is left of them comes first.
  return portions.unfinished() and portions.more() or release(0)
end

return {hold = hold, go_on = go_on, has_to_stand = has_to_stand, stand = stand, release = release}

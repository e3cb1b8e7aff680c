-- Kinds of steps, by the word that a plan has for them. A kind has: enter(position, step) makes ready what is not done yet and
-- says what to publish, or nothing if all is done; join(step) is asked when no member is open any more, and says what to publish
-- if more of the step is to be done; leave(step) writes what the step leaves to the next one; members(step, place, most) names
-- nodes that may be open, from a place on, at first 0, and the next place if there are more; named(step, place, most) all of its
-- nodes in the same way; ready(step, kind) says what nobody has claimed; stalled(step, has_joined) since when nobody asks for
-- what is left of it, if that shows in no record; count(step) how many members there are.
local function nothing_more() end

-- One node, or several that are joined; passing over those that are done. Gates wait from now on, which may be over at once.
local function enter_members(position, step)
  local names, open, won, is_gate = {}, 0, 0, {}
  for _, name in ipairs(step.gates or {}) do
    is_gate[name] = true
  end
  read_records(step.nodes)
  for _, name in ipairs(step.nodes) do
    local rec = record(name)
    if rec and rec.state == 'succeeded' or is_gate[name] and not waiting.enter(name, rec and rec.generation) then
      won = won + 1
    else
      open = open + 1
      if not is_gate[name] then
        names[#names + 1] = name
        save_ready(name, rec and rec.generation, step.deadlines and step.deadlines[name])
      end
    end
  end
  if open == 0 then
    return nil
  end
  -- A chord counts all members of a step and no others; a larger one costs more than the messages that it saves.
  local singles = step_kinds[step.kind].has_chord
    and (run.chords ~= '1' or won > 0 or open > LARGE_STEP or not in_first_epoch() or step['local'] or step.gates or step.waits)
  set_run({position = position, open = open, won = won, announced = END, detached = singles and '1' or '0'})
  touch()
  return #names > 0 and {kind = 'step', position = position, names = names} or nothing()
end

local function ready_members(step, kind)
  local work = {kind = kind, position = run.position, names = {}}
  read_records(step.nodes)
  for _, name in ipairs(step.nodes) do
    local rec = record(name)
    if rec and rec.state == 'ready' then
      work.names[#work.names + 1] = name
      work.since = math.min(work.since or NOW, rec.since)
    end
  end
  return #work.names > 0 and work or nothing()
end

local function some_members(step, place, most)
  return {unpack(step.nodes, place + 1, math.min(place + most, #step.nodes))}, place + most < #step.nodes and place + most or nil
end

local members = {enter = enter_members, join = nothing_more, leave = nothing_more, ready = ready_members,
  stalled = nothing_more, members = some_members, named = some_members, count = function(step) return #step.nodes end}

return {['then'] = members, branch = members, expand = members, gate = members,
  parallel = setmetatable({has_chord = true}, {__index = members}), map = maps}

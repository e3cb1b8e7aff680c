-- Publish ready nodes of a run once more, each with a back-off of its own: a message may have been lost.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 epoch, 3... nodes
-- Returns {'again', what to publish...} or {'nothing'} or {'unknown'}.
-- TTL     none. A second call within the back-off (1 s, doubled each time, at most 60 s) publishes nothing.
if not load_run() then
  return {'unknown'}
end
local names = {}
local since = NOW
for index = 3, #ARGV do
  local rec = record(ARGV[index])
  local facts = plan_node(ARGV[index])
  if facts and facts.kind == 'item' and run.epoch == ARGV[2] and facts.step == run.position and NOW >= run.map_again then
    names = maps.ready(plan_step(facts.step)).names
    local looks = run.map_looks + 1
    set_run({map_looks = looks, map_again = NOW + math.min(LOOK_AFTER_MS * 2 ^ looks, 60000)})
  elseif run.epoch == ARGV[2] and rec and rec.state == 'ready' and NOW >= (rec.again or 0) then
    rec.looks = (rec.looks or 0) + 1
    rec.again = NOW + math.min(LOOK_AFTER_MS * 2 ^ rec.looks, 60000)
    since = math.min(since, rec.since)
    save(ARGV[index], rec)
    detach(facts)
    names[#names + 1] = ARGV[index]
  end
end
if #names == 0 then
  return {'nothing'}
end
note('republished', #names > SAGA_AHEAD and names[1] or table.concat(names, ' '))
return reply('again', {kind = 'nodes', position = run.position, names = names, since = since})

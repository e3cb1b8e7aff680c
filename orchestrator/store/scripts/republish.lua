-- Publish ready nodes of a run once more, each with a back-off of its own: a message may have been lost.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 epoch, 3 longest back-off in ms, 4 the instant in ms at which a worker with its flow came last, or 0, 5... nodes
-- Returns {'again', what to publish...} or {'nothing'} or {'unknown'}.
-- TTL     none. A second call within the back-off (1 s, doubled each time) publishes nothing. The first one after a worker
--         has come begins with 1 s again.
if not load_run() then
  return {'unknown'}
end
local LONGEST_MS, joined = tonumber(ARGV[3]), tonumber(ARGV[4])
local names, next_look = {}, nil
local function has_joined(sent) return sent and joined > sent end
local function back_off(looks) return NOW + math.min(LOOK_AFTER_MS * 2 ^ looks, LONGEST_MS) end
for index = 5, #ARGV do
  local rec = record(ARGV[index])
  local facts = plan_node(ARGV[index])
  if facts and facts.kind == 'item' and run.epoch == ARGV[2] and facts.step == run.position
    and (NOW >= run.map_again or has_joined(run.map_sent)) then
    names = maps.ready(plan_step(facts.step)).names
    local looks = has_joined(run.map_sent) and 1 or run.map_looks + 1
    set_run({map_looks = looks, map_again = back_off(looks), map_sent = NOW})
    next_look = run.map_again
  elseif run.epoch == ARGV[2] and rec and rec.state == 'ready' and (NOW >= (rec.again or 0) or has_joined(rec.sent)) then
    rec.looks = has_joined(rec.sent) and 1 or (rec.looks or 0) + 1
    rec.again, rec.sent = back_off(rec.looks), NOW
    next_look = math.min(next_look or rec.again, rec.again)
    save(ARGV[index], rec)
    detach(facts)
    names[#names + 1] = ARGV[index]
  end
end
if #names == 0 then
  return {'nothing'}
end
if next_look then  -- first: a full Redis refuses it, and so all of this
  redis.call('ZADD', LIVE, 'XX', 'LT', next_look, RUN_ID)
end
note('republished', #names > SAGA_AHEAD and names[1] or table.concat(names, ' '))
return reply('again', {kind = 'nodes', position = run.position, names = names})

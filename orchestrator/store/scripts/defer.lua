-- An attempt returned that its node waits: for something from outside, or for an instant. Its claim ends.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 node, 3 token, 4 kind of what it waits for, see waiting.lua, 5 how long at most in ms, or 0, 6 the instant in ms that
--         it waits for in place of a time, or '', 7 ms from its timeout to the next attempt, 8 '1' if the caller asks for a
--         map's next item itself
-- Returns {'waiting', what to publish...}, {'completed', what to publish...} if what it waits for had come before, {'ended', what to
--         publish...} in a run that is ending, {'fenced'} or {'unknown'}.
-- TTL     none while the run lives. An identical second call answers 'waiting' as long as the node waits, else 'fenced'.
local node, token, waits, lasts, due, delay, follows = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]),
  tonumber(ARGV[7]), ARGV[8] == '1'
if not load_run() then
  return {'unknown'}
end
local rec, facts = record(node), plan_node(node)
if rec and rec.state == 'waiting' and rec.dropped == token then
  return reply('waiting', maps.next_item(facts, follows))
end
if not rec or rec.state ~= 'running' or rec.token ~= token then
  return {'fenced'}
end
end_claim(rec, node)
add_busy(rec)
rec.dropped, rec.outcome, rec.lost = token, 'waiting', nil
detach(facts)
if rec.kept then
  return reply('completed', announced(waiting.deliver(node, rec, facts)))
end
if run.verdict then
  rec.waits = waits
  return reply('ended', announced(waiting.fail_late(node, rec, facts)))
end
rec.waits, rec.since = waits, NOW
if lasts > 0 then
  rec.lasts, rec.delay = lasts, delay
end
waiting.wait(node, rec, due and math.max(due, NOW) or lasts > 0 and NOW + lasts or nil)
touch()
return reply('waiting', maps.next_item(facts, follows))

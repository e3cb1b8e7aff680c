-- Store what a running attempt says of its progress.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 node, 3 token, 4 detail (JSON), 5 the time in ms after which the claim ends without another report, or 0 to leave that
--         as it is
-- Returns {'stored'}, or {'ending'} when the run is ending, or {'fenced'} or {'unknown'}.
-- TTL     none while the run lives. An identical second call stores the same, and moves the end of the claim.
local node, token, ends_in = ARGV[2], ARGV[3], tonumber(ARGV[5] or 0)
if not load_run() then
  return {'unknown'}
end
local rec = record(node)
if not rec or rec.token ~= token then
  return {'fenced'}
end
rec.detail = ARGV[4]
save(node, rec)
if ends_in > 0 and rec.state == 'running' then
  note_claim(rec.holder, node, token .. '|' .. string.format('%.0f', math.min(rec.deadline, NOW + ends_in)))
end
return {run.verdict and 'ending' or 'stored'}

-- Store what a running attempt says of its progress.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 node, 3 token, 4 detail (JSON)
-- Returns {'stored'}, or {'ending'} when the run is ending, or {'fenced'} or {'unknown'}.
-- TTL     none while the run lives. An identical second call stores the same.
local node, token = ARGV[2], ARGV[3]
if not load_run() then
  return {'unknown'}
end
local rec = record(node)
if not rec or rec.token ~= token then
  return {'fenced'}
end
rec.detail = ARGV[4]
save(node, rec)
return {run.verdict and 'ending' or 'stored'}

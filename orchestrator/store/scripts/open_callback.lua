-- Give a node's callback its secret, the same in every attempt.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 node, 3 token, 4 a secret to be taken if there is none yet
-- Returns {secret}, {'fenced'} or {'unknown'}.
-- TTL     none. A second call, with whatever secret, answers the first one's. Begins with HSET: a full Redis refuses it.
local node, token, secret = ARGV[2], ARGV[3], ARGV[4]
if not load_run() then
  return {'unknown'}
end
local rec = record(node)
if not rec or rec.state ~= 'running' or rec.token ~= token then
  return {'fenced'}
end
if not rec.secret then
  rec.secret = secret
  save(node, rec)
end
return {rec.secret}

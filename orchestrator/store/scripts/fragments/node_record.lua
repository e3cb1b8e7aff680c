-- The record of a node (rec) and what the plan says of it (facts); leave where there is no such run. Uses node.
if not load_run() then
  return {'unknown'}
end
local rec, facts = record(node), plan_node(node)

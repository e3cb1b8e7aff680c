-- The children of this run, which ends, that are to be kept for their retention from now on; nothing if they are many,
-- or not all of the plainest kind. Uses RUN_ID, INDEX, run_of, plan_key and has_ended.
local FEW = 20
local function few_children()
  local ids, found = redis.call('ZRANGE', INDEX .. ':children:' .. RUN_ID, 0, FEW), {}
  if #ids > FEW then
    return nil
  end
  for _, id in ipairs(ids) do
    local child = redis.call('HMGET', run_of(id), 'status', 'plan', 'flow', 'retention', 'idem', 'indexes', 'retired')
    local facts = child[2] and redis.call('HMGET', plan_key(child[2]), 'maps', 'pages', 'signals', 'children')
    if facts and (facts[1] ~= '[]' or facts[2] ~= '[]' or facts[3] or facts[4]) then
      return nil
    elseif facts and has_ended(child[1]) and not child[7] then
      found[#found + 1], child.id = child, id
    end
  end
  return found
end

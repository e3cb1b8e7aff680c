-- Keep children that were found by few_children.lua for their retention. Uses run_of, plan_key, keys_of and what retire.lua uses.
local function retire_children(found)
  for _, child in ipairs(found) do
    local RUN_ID, PLAN, own_keys = child.id, plan_key(child[2]), keys_of(run_of(child.id))
    local after, flow, retention, idempotency, indexes = child[1], child[3], child[4], child[5], child[6] or nil
    redis.call('HSET', run_of(RUN_ID), 'retired', '1')
    -- include: retire
  end
end

-- Count an attempt that did not succeed, for metrics; an item counts as its map's node. Uses EVENTS, run and node.
local function count_attempt(outcome)
  local attempts = EVENTS .. ':attempts:' .. (run.flow or '')
  redis.call('HINCRBY', attempts, outcome .. '|' .. string.gsub(node, '%[.*', ''), 1)
  redis.call('PEXPIRE', attempts, 691200000)
end

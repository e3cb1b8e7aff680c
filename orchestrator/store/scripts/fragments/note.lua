-- Add an entry to the run's history, in short: see history.py. Uses HISTORY, instant and history_limit.
local function note(event, node, attempt, detail)
  local head, rest = instant .. '|' .. event .. '|' .. (attempt or '0') .. '|', (node or '') .. '|' .. (detail or '')
  if #rest > 500 and event ~= '>' then
    rest = string.sub(node or '', 1, 300) .. '|' .. string.sub(detail or '', 1, 200)
  end
  if redis.call('RPUSH', HISTORY, head .. rest) > tonumber(history_limit) then
    redis.call('LTRIM', HISTORY, -history_limit, -1)
  end
end

-- Add an entry to the run's history, at the end of it 'detail' and its text if there is one.
-- Uses HISTORY and history_limit.
local function note(event, node, attempt, ...)
  redis.call('XADD', HISTORY, 'MAXLEN', '~', history_limit, '*', 'event', event, 'node', node or '', 'attempt', attempt or '0', ...)
end

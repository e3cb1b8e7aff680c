-- Read the open claims of processes.
-- KEYS    1 holders
-- ARGV    processes
-- Returns of each process a list: run and node, token and end of the claim, and so on.
-- TTL     none. A second call answers the same: it writes nothing.
local answer = {}
for index, holder in ipairs(ARGV) do
  answer[index] = redis.call('HGETALL', KEYS[1] .. ':' .. holder)
end
return answer

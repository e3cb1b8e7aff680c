-- Move the run from one status to another in the index. Uses INDEX and RUN_ID.
local function move_in_index(before, status, created)
  redis.call('ZREM', INDEX .. ':status:' .. before, RUN_ID)
  redis.call('ZADD', INDEX .. ':status:' .. status, created, RUN_ID)
end

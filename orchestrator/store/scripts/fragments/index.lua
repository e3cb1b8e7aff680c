-- Move the run in the indexes from one group to another: 'open', or the status that it ended with. Uses INDEX, RUN_ID, before,
-- after, flow and created.
redis.call('ZREM', INDEX .. ':status:' .. before, RUN_ID)
redis.call('ZREM', INDEX .. ':flow:' .. flow .. ':' .. before, RUN_ID)
redis.call('ZADD', INDEX .. ':status:' .. after, created, RUN_ID)
redis.call('ZADD', INDEX .. ':flow:' .. flow .. ':' .. after, created, RUN_ID)

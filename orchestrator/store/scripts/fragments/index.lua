-- Move the run in the indexes from one group to another: 'open', or the status that it ended with. Uses INDEX, FAMILY, RUN_ID,
-- before, after, flow and created.
redis.call('ZREM', INDEX .. ':status:' .. FAMILY .. before, RUN_ID)
redis.call('ZREM', INDEX .. ':flow:' .. flow .. ':' .. FAMILY .. before, RUN_ID)
redis.call('ZADD', INDEX .. ':status:' .. FAMILY .. after, created, RUN_ID)
redis.call('ZADD', INDEX .. ':flow:' .. flow .. ':' .. FAMILY .. after, created, RUN_ID)

-- Move the run in the index from the status `before` to the status `after`. Uses INDEX, RUN_ID and created.
redis.call('ZREM', INDEX .. ':status:' .. before, RUN_ID)
redis.call('ZADD', INDEX .. ':status:' .. after, created, RUN_ID)

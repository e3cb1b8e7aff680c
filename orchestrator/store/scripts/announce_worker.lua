-- Store what a worker announces of itself, and forget workers whose lease has ended.
-- KEYS    1 workers, 2 the worker's own key
-- ARGV    1 worker, 2 what it announces (JSON), 3 lease in ms
-- Returns 1.
-- TTL     of the announcement: the lease and ten minutes, in which it still says who held what. A second call begins it anew.
-- include: instant
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3] + 600000)
redis.call('ZADD', KEYS[1], NOW + ARGV[3], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', NOW)
return 1

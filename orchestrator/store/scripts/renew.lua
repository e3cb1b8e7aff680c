-- Renew the leases of processes that are alive.
-- KEYS    1 holders, 2... record of each holder
-- ARGV    1 lease in ms, 2... holders, in the order of their records
-- Returns the number of leases renewed.
-- TTL     records of claims: one day. An identical second call renews again. Begins with PEXPIRE: it passes in a full Redis.
-- include: instant
for index = 2, #ARGV do
  redis.call('PEXPIRE', KEYS[index], 86400000)
  redis.call('ZADD', KEYS[1], NOW + tonumber(ARGV[1]), ARGV[index])
end
return #ARGV - 1

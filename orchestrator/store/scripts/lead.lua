-- Take or keep the lead of the reconcilers for a while.
-- KEYS    1 leader
-- ARGV    1 who asks, 2 for how long in ms
-- Returns 1, or 0 if another one leads.
-- TTL     of the lead: ARGV 2. An identical second call keeps it.
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1

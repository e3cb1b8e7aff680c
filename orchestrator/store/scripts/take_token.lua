-- Take one token of a bucket for a running attempt, before those who stand in its line: the attempt holds a worker.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 node, 3 token, 4 bucket
-- Returns {'taken'}, {'wait', us}, {'no limit', bucket}, {'fenced'} or {'unknown'}.
-- TTL     the mark of who asks: two seconds. A second call takes another token.
local node, token, name = ARGV[2], ARGV[3], ARGV[4]
if not load_run() then
  return {'unknown'}
end
local rec = record(node)
if not rec or rec.state ~= 'running' or rec.token ~= token or rec.admits then
  return {'fenced'}
end
local bucket = limits.read(LIMITS, name, NOW_US)
if not bucket or bucket.held then  -- what is held has a claim, and no attempt gives it back while it runs
  return {'no limit', name}
end
local is_known = false
for _, other in ipairs(wait_queue.buckets_of(node, rec)) do
  is_known = is_known or other == name
end
if not is_known then  -- a freeze that the attempt tells of is this bucket's too
  rec.buckets = {unpack(wait_queue.buckets_of(node, rec))}
  table.insert(rec.buckets, name)
  rec.asked = rec.asked or {}
  table.insert(rec.asked, name)
  save(node, rec)
end
local asker = RUN_ID .. '|' .. node .. '|' .. token
local wait = bucket:wait_for()
if wait > 0 then
  redis.call('ZADD', bucket.asking, NOW_US, asker)
  redis.call('PEXPIRE', bucket.asking, limits.OUTSTANDING_US / 1000)
  return {'wait', string.format('%.0f', wait)}
end
bucket:take(asker)
if redis.call('ZREM', bucket.asking, asker) == 1 and bucket.waited then
  bucket:waited()
end
return {'taken'}

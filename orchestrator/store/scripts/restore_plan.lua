-- Put back a plan that live runs pin and the store has lost.
-- KEYS    1 plan, 2 announced flows
-- ARGV    1 flow, 2 plan hash, 3 the plan's fields (JSON object)
-- Returns 1, or 0 if it is there.
-- TTL     none; it gets one when the next of its runs ends, and the look at another one takes that off. A second call answers 0.
if redis.call('HEXISTS', KEYS[1], 'text') == 1 then
  return 0
end
for field, value in pairs(cjson.decode(ARGV[3])) do
  redis.call('HSET', KEYS[1], field, value)
end
if redis.call('HGET', KEYS[2], ARGV[1]) == ARGV[2] then
  redis.call('HSET', KEYS[1], 'announced', '1')
end
redis.call('PERSIST', KEYS[1])
return 1

-- Free the slots of a claim that nothing can ask its plan about, whatever limits they are of. Uses LIMITS and claim: its run, node
-- and token with | between them.
for _, limit in ipairs(redis.call('HKEYS', LIMITS)) do
  if string.sub(limit, 1, 1) == '@' then
    redis.call('ZREM', LIMITS .. ':held:' .. limit, claim)
  end
end

-- Let a bucket grant nothing before an instant, and then one token.
-- KEYS    1 limits
-- ARGV    1 bucket, 2 until when in us
-- Returns 1 if it is frozen at least until then, 0 if the instant has passed or there is no such bucket.
-- TTL     the mark: until then. An identical second call does nothing.
local limits = (function()
  -- include: limits
end)()
-- include: instant
local now, till = clock[1] * 1000000 + clock[2], tonumber(ARGV[2])
local bucket = limits.read(KEYS[1], ARGV[1], now)
if not bucket or not bucket.freeze or till <= now then
  return 0
end
bucket:freeze(till, 0)
return 1

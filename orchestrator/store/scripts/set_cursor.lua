-- Say where a source is to be read from: what runs now will not move it, the next run begins there.
-- KEYS    1 cursors
-- ARGV    1 flow|source, 2 cursor (JSON)
-- Returns the cursor's version.
-- TTL     none. A second call raises the version again.
local version = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '0 ', '^%d+') + 1
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', version) .. ' ' .. ARGV[2])
return version

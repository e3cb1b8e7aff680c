-- Keep lines that an attempt wrote with its run, the newest ones of all attempts.
-- KEYS    1 run, 2 its failures, which live as long as the run in every version
-- ARGV    1 lines, each with a line break behind it; 2 most lines of a run, 3 most bytes
-- Returns 1 if they are kept, 0 if there is no such run.
-- TTL     as the run. An identical second call keeps them twice.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local text = (redis.call('HGET', KEYS[2], ':log') or '') .. ARGV[1]
local _, lines = string.gsub(text, '\n', '')
local most_lines, most_bytes, from = tonumber(ARGV[2]), tonumber(ARGV[3]), 1
while lines > most_lines or #text - from + 1 > most_bytes do
  from, lines = string.find(text, '\n', from, true) + 1, lines - 1
end
redis.call('HSET', KEYS[2], ':log', string.sub(text, from))
local left = redis.call('PTTL', KEYS[1])
if left > 0 then
  redis.call('PEXPIRE', KEYS[2], left)
end
return 1

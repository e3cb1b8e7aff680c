-- Take the oldest message out of a queue, if it is for a certain task.
-- KEYS    1 queue
-- ARGV    1 the task, as the message's header has it
-- Returns the message, or nothing.
-- TTL     none. An identical second call takes the message behind it: one whose answer was lost is lost like any other.
local oldest = redis.call('LINDEX', KEYS[1], -1)
return oldest and string.find(oldest, ARGV[1], 1, true) and redis.call('RPOP', KEYS[1])

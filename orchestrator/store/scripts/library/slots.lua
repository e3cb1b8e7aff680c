-- Slots: so many at once, each held by one claim from its start until transition.lua ends the claim. When one is free nobody
-- knows.
local SLOT_US, LOOK_MS = 1000000, 500  -- longer than anybody sleeps for; a slot that becomes free makes the queue due at once

local function load(bucket, numbers, limits)
  bucket.interval, bucket.size, bucket.held = 0, tonumber(string.match(numbers, '^0 (%d+)')), limits .. ':held:' .. bucket.name
end

local function room(bucket) return bucket.size - redis.call('ZCARD', bucket.held) end
local function wait_for(bucket) return room(bucket) > 0 and 0 or SLOT_US end
local function take(bucket, claim) redis.call('ZADD', bucket.held, bucket.now, claim) end

return {load = load, wait_for = wait_for, take = take, room = room, look_ms = LOOK_MS}

-- The runs of a lane that go on, and those that wait for their turn, see lanes.lua; and whether one more may go on. The first
-- places are taken from runs that live no more: nothing else frees those. Uses INDEX, PLAN, RUN and RUN_ID.
local function run_of(id) return string.sub(RUN, 1, -#RUN_ID - 1) .. id end
local function going_on(lane) return INDEX .. ':lane:' .. lane end
local function queue_of(lane) return going_on(lane) .. ':queued' end
-- The lane of a schedule, which has a mark in its name, is one run wide; what others are is said by the plan, if it is not gone.
local function max_runs_of(lane)
  if string.find(lane, '@', 1, true) then
    return {most = 1, when_full = 'queue'}
  end
  local text = redis.call('HGET', PLAN, 'max_runs')
  return text and cjson.decode(text)
end
local function is_over(status)
  return not status or status == 'succeeded' or status == 'failed' or status == 'cancelled' or status == 'compensation_failed'
end
local function has_place(lane, most)
  if redis.call('ZCARD', going_on(lane)) < most then
    return true
  end
  for _, id in ipairs(redis.call('ZRANGE', going_on(lane), 0, 9)) do
    if is_over(redis.call('HGET', run_of(id), 'status')) then
      redis.call('ZREM', going_on(lane), id)
    end
  end
  return redis.call('ZCARD', going_on(lane)) < most
end

-- Read what a fast path asks of the run, with the fields that the include names, then those of the table `more`, if there is
-- one; leave the fast path if the run is not where the plan says or not the caller's. A run that is ending has another status.
-- Uses RUN, PLAN, epoch and position.
local values = redis.call('HMGET', RUN, 'status', 'plan', 'epoch', 'position', 'running', 'scheduled', 'history_limit'--[[, fields]],
  unpack(more or ARGV, 1, more and #more or 0))
local status, plan, own_epoch, at, running, scheduled, history_limit--[[, names]] = unpack(values)
if status ~= 'running' and status ~= 'pending' or own_epoch ~= epoch or at ~= position or string.sub(PLAN, -#plan) ~= plan then
  break
end

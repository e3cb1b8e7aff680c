-- Lanes: the runs of a flow that share a maximum, all of them, those with one value in their input, or those of a schedule. A run has a place in its
-- lane from its admission, by which its first position becomes ready, until its end; others are queued by their start, in state
-- `pending` and without records of nodes, and `queued` in their record is since when, in us, or '0' before a delay is over.
-- Who leaves calls the first of the queue, by a row among the timers and an answer that says whom to wake. Only the wake admits,
-- so that a call that is lost costs a moment, and one that is made twice has no effect.
local ADMIT, AGAIN_MS, GONE_AT_ONCE = ':admit', 1000, 100
-- include: lane
local function row_of(id) return id .. '|' .. ADMIT end
local function is_free()
  local max_runs = max_runs_of(run.lane)  -- nothing if the plan is gone: then the next look at the first of the queue admits it
  return max_runs and has_place(run.lane, max_runs.most)
end

-- The first of the queue; forget runs that are gone.
local function first()
  local id, count = nil, 0
  repeat
    id, count = redis.call('ZRANGE', queue_of(run.lane), 0, 0)[1], count + 1
    if not id or redis.call('HGET', run_of(id), 'queued') then
      return id
    end
    redis.call('ZREM', queue_of(run.lane), id)
  until count == GONE_AT_ONCE
end

local function call_first()
  local id = first()
  if id then  -- it is looked at often from now on, so that a place whose run is gone is seen to be free
    redis.call('ZADD', LIVE, 'XX', NOW + AGAIN_MS, id)
  end
  if not id or not is_free() then
    return nothing()
  end
  redis.call('ZADD', TIMERS, instant, row_of(id))
  wake_leader(NOW)
  return {kind = 'next', names = {id, ADMIT, unpack(redis.call('HMGET', run_of(id), 'plan', 'epoch'))}}
end

-- Take a place, whether one is free or not.
local function take()
  redis.call('HDEL', RUN, 'queued')
  run.queued = false
  redis.call('ZADD', going_on(run.lane), NOW, RUN_ID)
  redis.call('ZREM', queue_of(run.lane), RUN_ID)
  redis.call('ZREM', TIMERS, row_of(RUN_ID))
end

-- The run has ended. Answers whom to wake.
local function leave()
  redis.call('ZREM', going_on(run.lane), RUN_ID)
  redis.call('ZREM', queue_of(run.lane), RUN_ID)
  redis.call('ZREM', TIMERS, row_of(RUN_ID))
  return call_first()
end

local function stand_in_queue()
  set_run({queued = string.format('%.0f', NOW_US)})
  flush()
  redis.call('ZADD', queue_of(run.lane), run.queued, RUN_ID)
end

-- A run that goes forward again takes a place, or false: it is queued, without a time limit until it is admitted.
local function return_to()
  if not first() and is_free() then
    take()
    return true
  end
  stand_in_queue()
  redis.call('HDEL', RUN, 'deadline')
  run.deadline = false
  touch()
  return false
end

local function skip()
  abort.begin('cancelled', abort.failure_of('orchestrator.errors.RunCancelled', max_runs_of(run.lane).full))
  return abort.when_quiet()
end

local function begin_time()
  local timeout = tonumber(redis.call('HGET', RUN, 'timeout'))
  if timeout > 0 then
    set_run({deadline = NOW + timeout})
    flush()
    redis.call('ZADD', TIMERS, run.deadline, RUN_ID .. '|')
    wake_leader(run.deadline)
  end
end

-- The run is called, or its delay is over. Answers as wake.lua.
local function admit()
  local begins = run.queued == '0' and tonumber(redis.call('HGET', RUN, 'begins')) or 0
  if run.queued and not run.verdict and begins > NOW then
    redis.call('ZADD', TIMERS, begins, row_of(RUN_ID))
    return {'asleep'}
  end
  if not run.queued or run.verdict then
    redis.call('ZREM', TIMERS, row_of(RUN_ID))
    return {'asleep'}
  end
  redis.call('HSET', RUN, 'admitted', instant)  -- first: a full Redis refuses it, and so all of this
  if run.queued == '0' and max_runs_of(run.lane).when_full == 'skip' and (first() or not is_free()) then
    return reply('ended', skip())
  elseif run.queued == '0' then
    stand_in_queue()
  end
  redis.call('ZREM', TIMERS, row_of(RUN_ID))
  if not is_free() then
    return {'asleep'}
  elseif first() ~= RUN_ID then
    call_first()
    return {'asleep'}
  end
  take()
  call_first()
  begin_time()
  note('admitted')
  touch()
  local work = portions.restart()
  if run.status == 'pending' and plan_step(portions.first()).gates then
    set_status('running')
  end
  return reply('ready', announced(work))
end

-- Put back what the indexes have lost of a queued run. Answers whether it is its turn, and whether that is to be seen soon.
local function mend()
  if run.queued == '0' then
    redis.call('ZADD', TIMERS, 'NX', redis.call('HGET', RUN, 'begins'), row_of(RUN_ID))
    return false, false
  end
  redis.call('ZADD', queue_of(run.lane), 'NX', run.queued, RUN_ID)
  local is_first = first() == RUN_ID
  return is_first and is_free(), is_first
end

return {ADMIT = ADMIT, take = take, leave = leave, return_to = return_to, admit = admit, mend = mend}

-- What others are told of a run: monitors, who waits for it, workers; and what is kept of it when it ends.

local function event(kind, detail)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', kind, 'run', RUN_ID, 'flow', run.flow,
    'detail', detail or '')
end

local function own_keys()
  local keys = {RUN, NODES, OUTPUTS, FAILURES, HISTORY, SAGA, OPEN, AGAIN}
  for _, node in ipairs(plan_fact('maps') or {}) do
    keys[#keys + 1] = results_of(node)
    keys[#keys + 1] = RUN .. ':items:' .. node
  end
  for _, entry in ipairs(plan_fact('pages') or {}) do
    keys[#keys + 1] = results_of(entry[1])
  end
  return keys
end

-- The run has ended: nothing of it is indexed as live, everything of it gets the retention as its lifetime.
local function finish(status)
  is_touched = false
  set_run({finished = NOW})
  set_status(status)
  if status == 'succeeded' and #(plan_fact('pages') or {}) > 0 then
    pages.move_cursors()
  end
  note('run-' .. status)
  redis.call('ZREM', LIVE, RUN_ID)
  redis.call('ZREM', TIMERS, RUN_ID .. '|')
  for _, key in ipairs(own_keys()) do
    redis.call('PEXPIRE', key, run.retention)
  end
  if run.idem and run.idem ~= '' then
    redis.call('PEXPIRE', run.idem, run.retention)
  end
  redis.call('ZADD', EXPIRING, NOW + run.retention, status .. '|' .. run.flow .. '|' .. RUN_ID)
  -- An earlier run may have had a longer retention: the plan lives as long as the last of its runs.
  local kept = math.max(tonumber(redis.call('HGET', PLAN, 'kept') or 0), NOW + run.retention)
  redis.call('HSET', PLAN, 'kept', string.format('%.0f', kept))
  if redis.call('HINCRBY', PLAN, 'live', -1) <= 0 and redis.call('HEXISTS', PLAN, 'announced') == 0 then
    redis.call('PEXPIREAT', PLAN, string.format('%.0f', kept))
  end
  event(status, string.format('%.0f', NOW - run.created))
  redis.call('PUBLISH', DONE, status)
end

-- Push a message of this run that Celery has made, publishable from now on.
local function push(queue, message)
  redis.call('LPUSH', queue, (string.gsub(message, '@since@', string.format('%.0f', NOW))))
end

return {event = event, own_keys = own_keys, finish = finish, push = push}

-- End a run that cannot get on because something of it is gone, its plan for example: what runs is unknown from now on, what
-- waits does not start, and what would have to be undone is told. Called with names until all nodes are named, then without.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 verdict, if the run has none, 3 failure (JSON), 4 '1' with the last call, 5... nodes with a record, at most 500;
--         with the last call nodes that may have outputs of items or pages
-- Returns {'ending'}, with the last call {'ended'}, {'too late'} when the run has ended, or {'unknown'}.
-- TTL     the retention on the run's keys, with the last call. An identical second call ends the same nodes again, or is
--         'too late'. Begins with HSET: a full Redis refuses it.
local verdict, failure, is_last = ARGV[2], ARGV[3], ARGV[4] == '1'
if not load_run() then
  return {'unknown'}
end
if is_ended() then
  return {'too late'}
end
set_run({verdict = run.verdict or verdict, error = failure})
if run.status ~= 'compensating' then
  set_status('compensating')
end
local undone_when = {}
for _, entry in ipairs(plan_fact('sagas') or {}) do
  undone_when[entry[1]] = entry[3]
end

local function is_owed(node, rec)
  if rec.inherited then
    return false
  elseif rec.state == 'compensating' then
    return true
  end
  local when = undone_when[base_of(node)] or not plan_fact('sagas') and redis.call('HGET', RUN, 'undoes') and 'succeeded'
  return when and rec.state == 'succeeded' or when == 'started' and rec.attempt > 0
    and (rec.state == 'failed' or rec.state == 'unknown')
end

local function leave_queue(node, rec)
  if rec.bucket then
    wait_queue.forget_marks({rec.bucket}, RUN_ID .. '|' .. node)
  end
  redis.call('ZREM', TIMERS, RUN_ID .. '|' .. node)
end

for number = 5, is_last and 4 or #ARGV do
  local node = ARGV[number]
  local is_read, rec = pcall(record, node)
  if not is_read then
    rec = {state = 'running', attempt = 1}
  end
  local state = rec and rec.state == 'waiting' and waiting.dismiss(node, rec)
  if rec and (state or rec.state == 'running' or rec.state == 'ready' or rec.state == 'parked' or rec.state == 'paused') then
    if rec.state == 'running' and rec.holder then
      local claim = RUN_ID .. '|' .. node .. '|' .. (rec.token or '')
      note_claim(rec.holder, node, nil)
      -- include: free_slots
    end
    leave_queue(node, rec)
    rec.state = state or rec.state == 'running' and 'unknown' or rec.attempt > 0 and 'failed' or 'skipped'
    rec.seq, rec.ended, rec.token, rec.holder, rec.deadline = next_seq(), NOW, nil, nil, nil
    save(node, rec)
    note(rec.state, node, rec.attempt)
  end
  if rec and is_owed(node, rec) then
    rec.ended_as, rec.state = rec.state ~= 'compensating' and rec.state or rec.ended_as, 'compensation_failed'
    save(node, rec)
    set_run({saga_failed = '1'})
  end
end
if not is_last then
  return {'ending'}
end
local has_compensations = plan_fact('sagas') and #plan_fact('sagas') > 0 or redis.call('HGET', RUN, 'undoes')
if redis.call('EXISTS', NODES) == 0 and run.seq > 0 and has_compensations then
  run.saga_failed = '1'
end
set_run({running = 0, saga = '1'})
finish.finish(run.saga_failed == '1' and 'compensation_failed' or run.verdict)
for number = 5, #ARGV do
  redis.call('PEXPIRE', results_of(ARGV[number]), run.retention)
  redis.call('PEXPIRE', RUN .. ':items:' .. base_of(ARGV[number]), run.retention)
end
return {'ended'}

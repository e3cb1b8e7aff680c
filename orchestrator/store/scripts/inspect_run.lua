-- Look at an unfinished run: which ready nodes nobody has claimed, which claims have no holder; mend what has no timer.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 the run's next look in ms from now
-- Returns {outcome, epoch, kind, node, detail, ...} with kind 'ready' (detail: the instant it became so), 'orphan'
--         (detail: its token) or 'awake' (a parked node that nothing else would wake), or {'unknown'}.
-- TTL     none. A second call answers the same; only the next look moves.
if not load_run() then
  redis.call('ZREM', LIVE, RUN_ID)
  return {'unknown'}
end
redis.call('ZADD', LIVE, 'XX', NOW + tonumber(ARGV[2]), RUN_ID)
local names = {}
local step = run.position ~= END and plan_step(run.position)
if run.saga then
  names = {redis.call('LINDEX', SAGA, run.saga_at - 1) or nil}
elseif step then
  names = step_kinds[step.kind].members(step)
end
local answer = {'looked', run.epoch}
local function add(kind, node, detail)
  answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = kind, node, detail
end
local stalled = step and not run.verdict and step_kinds[step.kind].stalled(step)
if stalled then
  add('ready', step.nodes[1], string.format('%.0f', stalled))
end
for _, name in ipairs(names) do
  local rec = record(name)
  local member = RUN_ID .. '|' .. name
  if rec and rec.state == 'ready' and plan_node(name).kind ~= 'item' then
    if NOW >= (rec.again or rec.since + LOOK_AFTER_MS) then
      add('ready', name, string.format('%.0f', rec.since))
    end
  elseif rec and rec.state == 'running' then
    if not redis.call('ZSCORE', HOLDERS, rec.holder) then
      add('orphan', name, rec.token)
    end
  elseif rec and rec.state == 'parked' and not rec.bucket then
    redis.call('ZADD', TIMERS, 'NX', rec.due, member)
  elseif rec and rec.state == 'parked' and not redis.call('ZSCORE', LIMITS .. ':line:' .. rec.bucket, member) then
    add('awake', name, rec.bucket)
  end
end
return answer

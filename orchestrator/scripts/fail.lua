-- Record that an attempt failed: park the node until its next attempt, or end it for good.
-- needs: run.lua
-- KEYS    as run.lua
-- ARGV    2 node, 3 token, 4 failure (JSON), 5 delay to the next attempt in ms, -1 if there is to be none,
--         6 '1' if Celery publishes what comes next (as commit.lua)
-- Returns {'parked'}, {'failed', what to publish...}, {'excused', what to publish...} in a step that goes on without it,
--         {'fenced'} or {'unknown'}.
-- TTL     none while the run lives. An identical second call writes nothing and answers as the first, with what is still
--         ready and unclaimed; once the node was claimed again it is 'fenced'.
local node, token, failure, delay, follows = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6] == '1'
if not load_run() then
  return {'unknown'}
end
local rec, facts = record(node), plan_node(node)
if rec and rec.dropped == token then
  return reply(rec.outcome, rec.outcome == 'parked' and nothing() or left_over(facts, follows and facts.kind == 'node'))
end
if not rec or rec.state ~= 'running' or rec.token ~= token then
  return {'fenced'}
end
local waits = delay >= 0 and rec.attempt < facts.attempts and (not run.verdict or facts.kind == 'compensation')
redis.call('HSET', FAILURES, node, failure)
end_claim(rec, node)
rec.lost, rec.dropped = nil, token
if waits then
  rec.state, rec.due, rec.outcome = 'parked', NOW + delay, 'parked'
  save(node, rec)
  redis.call('ZADD', TIMERS, rec.due, RUN_ID .. '|' .. node)
  note('retrying', node, rec.attempt, string.format('%.0f', delay))
  detach(facts)
  touch()
  return {'parked'}
end
local was_detached = run.detached == '1'
local excused = not run.verdict and facts.kind == 'node' and plan_step(facts.step).go_on
rec.outcome = excused and 'excused' or 'failed'
local work = conclude(node, rec, facts, failure, 'failed')
return reply(rec.outcome, follows and celery_goes_on(facts, was_detached, work) and nothing() or announced(work))

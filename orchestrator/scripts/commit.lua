-- Store what a node returned, exactly once, count its join and say what became ready.
-- needs: run.lua
-- KEYS    as run.lua
-- ARGV    2 node, 3 token, 4 output (JSON; '' if there is none to store), 5 choice of a branch or '',
--         6 '1' if Celery publishes what comes next (the message carries the rest of its chain or belongs to a chord)
-- Returns {'stored', what to publish...} or {'fenced'} or {'unknown'}.
-- TTL     none while the run lives. An identical second call stores nothing and answers 'stored' with what is still
--         ready and unclaimed.
local node, token, output, choice, follows = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1'
if not load_run() then
  return {'unknown'}
end
local rec, facts = record(node), plan_node(node)
if not rec then
  return {'fenced'}
end
if rec.stored == token then
  return reply('stored', left_over(facts, follows))
end
if rec.state ~= 'running' or rec.token ~= token then
  return {'fenced'}
end

if output ~= '' then
  redis.call('HSET', OUTPUTS, facts.key, output)
end
end_claim(rec, node)
rec.state, rec.stored, rec.ended, rec.seq = 'succeeded', token, NOW, run.seq + 1
rec.choice = choice ~= '' and tonumber(choice) or nil
save(node, rec)
set_run({seq = rec.seq})
redis.call('HDEL', FAILURES, node)
note('succeeded', node, rec.attempt)
if facts.kind == 'compensation' then
  local work = announced(leave_compensation(node, 'compensated'))  -- also where Celery publishes it
  return reply('stored', follows and nothing() or work)
end
if run.verdict then
  return reply('stored', announced(when_quiet()))
end
local was_detached = run.detached == '1'
local work = count_join(plan_step(facts.step), true)
return reply('stored', follows and celery_goes_on(facts, was_detached, work) and nothing() or announced(work))

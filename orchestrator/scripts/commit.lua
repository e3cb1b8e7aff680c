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
  if follows and run.detached ~= '1' then
    return reply('stored', nothing())
  end
  if facts.kind == 'compensation' then
    return reply('stored', is_ended() and nothing() or saga_work(cjson.decode(run.saga)))
  end
  local names = {}
  for _, name in ipairs(run.verdict and {} or plan_step(run.position).nodes) do
    local other = record(name)
    if other and other.state == 'ready' then
      names[#names + 1] = name
    end
  end
  return reply('stored', #names > 0 and not is_ended() and {kind = 'nodes', position = run.position, names = names} or nothing())
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
  local work = leave_compensation(node, 'compensated')
  return reply('stored', follows and nothing() or announced(work))
end
if run.verdict then
  return reply('stored', announced(when_quiet()))
end
local was_detached = run.detached == '1'
local work = count_join(plan_step(facts.step), true)
local celery_goes_on = follows and not was_detached and work.kind == 'step'
return reply('stored', celery_goes_on and nothing() or announced(work))

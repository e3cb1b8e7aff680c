-- Give an attempt back uncounted: the code of its worker turned out not to fit the plan that the run pins.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 node, 3 token, 4 hash of the worker's own plan, 5 why its code does not fit
-- Returns {'again', what to publish...}, {'ended', what to publish...} in a run that is ending, {'fenced'} or {'unknown'}.
--         Where code of the same plan has given the node back before, publishing it is left to the reconciler.
-- TTL     none while the run lives. An identical second call is 'fenced'. Begins with PEXPIRE: it passes in a full Redis.
local node, token, own, reason = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
-- include: node_record
-- include: claimed_record
redis.call('PEXPIRE', HOLDERS .. ':' .. rec.holder, 86400000)
end_claim(rec, node)
rec.attempt = rec.attempt - 1
note('given-back', node, rec.attempt + 1, reason)
detach(facts)
if run.verdict and facts.kind ~= 'compensation' then
  rec.state, rec.seq = abort.has_begun(node, rec) and 'failed' or 'skipped', next_seq()
  save(node, rec)
  note(rec.state, node, rec.attempt)
  return reply('ended', announced(abort.when_quiet()))
end
touch()
rec.state, rec.since, rec.again, rec.looks = 'ready', NOW, nil, nil
save(node, rec)
flush()
-- For explain, and for workers that choose what to do with a message: this process gives no other run's attempt back.
local found = plan_fact('misfits') or {}
local is_new = not found[own .. '|' .. base_of(node)]
found[own .. '|' .. base_of(node)] = reason
redis.call('HSET', PLAN, 'misfits', cjson.encode(found))
return reply('again', is_new and maps.repeated(node, facts) or nothing())

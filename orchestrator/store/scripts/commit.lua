-- Store what a node returned, exactly once, count its join and say what became ready.
-- needs: transition
-- before: commit_fast
-- KEYS    as transition.lua; 17 queue of the message, or ''
-- ARGV    2 node, 3 token, 4 output (JSON; '' if there is none to store), 5 choice of a branch, count of a map's items
--         (that the caller has written to RUN:staged:<token>), or '',
--         6 '1' if Celery publishes what comes next (the message carries the rest of its chain or belongs to a chord)
--         or, of an item, if the caller asks for the next one itself,
--         7 and 8 of a paginated node, whose output is the JSON list of its last page's items: how many they are, and the
--         cursor that came with them (JSON); else '',
--         9 a message, with '@since@' for the instant, that is pushed here if it is for the one node that is to be
--         published, 10 that node (of an item the map's); or '' if the caller sends it
--         11 position, 12 output key, 13 position behind and 14 its one node ('' at the end of the flow) of a node that
--         commit_fast.lua may be for; else ''
-- Returns {'stored', what to publish...} or {'fenced'} or {'unknown'}.
-- TTL     none while the run lives. An identical second call stores nothing and answers 'stored' with what is still
--         ready and unclaimed.
local node, token, output, choice, follows = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1'
if not load_run() then
  return {'unknown'}
end
local rec, facts = record(node), plan_node(node)
local index = index_of(node)
if rec and rec.stored == token or not rec and index and redis.call('HEXISTS', results_of(node), index) == 1 then
  is_repeat = true
  local left = unpublished.left_over(facts, follows and facts.kind ~= 'item')
  return reply('stored', left.kind == '' and maps.next_item(facts, follows) or left)
end
if not rec then
  return {'fenced'}
end
if rec.state ~= 'running' or rec.token ~= token then
  return {'fenced'}
end

local staged = RUN .. ':staged:' .. token
if facts.kind == 'expand' and tonumber(choice) > 0 and redis.call('EXISTS', staged) == 0 then
  return {'fenced'}
end
if facts.kind == 'item' then
  redis.call('HSET', results_of(node), index, output)
elseif facts.paged then
  pages.store_page(node, output, ARGV[7], ARGV[8], token)
  redis.call('HSET', OUTPUTS, facts.key, pages.all_pages(node))
elseif output ~= '' then
  redis.call('HSET', OUTPUTS, facts.key, output)
end
end_claim(rec, node)
succeed(rec, token, run.seq + 1)
rec.choice = choice ~= '' and tonumber(choice) or nil
if facts.kind == 'item' and not facts.undone then
  erase(node)  -- its output says that it is done
else
  save(node, rec)
end
set_run({seq = rec.seq})
if output == '' then
  flush()
end
if rec.attempt > 1 or rec.throttled or run.epoch ~= '1' then
  redis.call('HDEL', FAILURES, node)
end
if facts.kind == 'item' then
  redis.call('SREM', OPEN, node)
else
  note('succeeded', node, rec.attempt)
end
if facts.kind == 'expand' and tonumber(choice) > 0 then
  local items = RUN .. ':items:' .. plan_step(following(plan_step(facts.step))).nodes[1]
  redis.call('RENAME', staged, items)
  redis.call('PERSIST', items)
end
if facts.kind == 'compensation' then
  local work = announced(abort.leave_compensation(node, 'compensated'))  -- also where Celery publishes it
  return reply('stored', follows and nothing() or work)
end
if run.verdict then
  return reply('stored', announced(abort.when_quiet()))
end
local was_detached = run.detached == '1'
local work = count_join(plan_step(facts.step), true)
if work.kind == '' and index then
  work = maps.next_item(facts, follows)
end
if ARGV[9] ~= '' and #work.names == 1 and work.names[1] == ARGV[10] then
  announced(work)
  finish.push(KEYS[17], ARGV[9])
  return reply('stored', nothing())
end
return reply('stored', follows and celery_goes_on(facts, was_detached, work) and nothing() or announced(work))

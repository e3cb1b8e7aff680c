-- Store what a node returned, exactly once, count its join and say what became ready. A function's body: node, token,
-- output (JSON; '' if there is none to store), choice of a branch or count of a map's items, or '', and of a paginated node,
-- whose output is the JSON list of its last page's items: page_count, how many they are, and the cursor that came with them
-- (JSON). `follows` says that Celery publishes what comes next (the message carries the rest of its chain or belongs to a
-- chord) or that the caller claims it; of an item that the caller claims the next one itself.
-- Returns {'stored', what to publish...} or {'fenced'} or {'unknown'}.
-- An identical second call stores nothing and answers 'stored' with what is still ready and unclaimed.
local continues = follows == '1'
-- include: node_record
local index = index_of(node)
if rec and rec.stored == token or not rec and index and redis.call('HEXISTS', results_of(node), index) == 1 then
  is_repeat = true
  local left = unpublished.left_over(facts, continues and facts.kind ~= 'item')
  return reply('stored', left.kind == '' and maps.next_item(facts, continues) or left)
end
-- include: claimed_record

local staged = RUN .. ':staged:' .. token
if facts.kind == 'expand' and tonumber(choice) > 0 and redis.call('EXISTS', staged) == 0 then
  return {'fenced'}
end
if facts.kind == 'item' then
  redis.call('HSET', results_of(node), index, output)
elseif facts.paged then
  pages.store_page(node, output, page_count, cursor, token)
  redis.call('HSET', OUTPUTS, facts.key, pages.whole_output(node, facts, output))
elseif output ~= '' then
  redis.call('HSET', OUTPUTS, facts.key, output)
end
end_claim(rec, node)
if rec.first then
  add_busy(rec)
end
local seq_now = run.seq + 1
-- include: succeed
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
if rec.attempt > 1 or rec.throttled or not in_first_epoch() then
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
  return reply('stored', continues and work.kind == 'saga' and nothing() or work)
end
if run.verdict then
  return reply('stored', announced(abort.when_quiet()))
end
local was_detached = run.detached == '1'
local work = count_join(plan_step(facts.step), true)
if work.kind == '' and index then
  work = maps.next_item(facts, continues)
end
if message_node and not is_held() and #work.names == 1 and work.names[1] == message_node then
  announced(work)
  finish.push(KEYS[17], string.sub(message, #message_node + 2))
  return reply('stored', nothing())
end
return reply('stored', continues and celery_goes_on(facts, was_detached, work) and nothing() or announced(work))

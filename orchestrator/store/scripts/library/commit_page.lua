-- Store a page of a paginated node that has more, or an iteration that is not the last, and make the node ready for the next
-- one, at once or after the pause that its plan has between iterations, its attempts counted afresh. A
-- function's body: node, token, items (JSON list), page_count, how many they are, and the cursor of the next page (JSON).
-- `follows` says that the caller claims the next page itself.
-- Returns {'turned', what to publish...} or {'fenced'} or {'unknown'}. In an ending run the node ends as failed.
-- An identical second call stores nothing and answers 'turned' with what is still ready and unclaimed.
local continues = follows == '1'
-- include: node_record
local next_message = continues and nothing() or {kind = 'nodes', position = run.position, names = {node}}
if rec and redis.call('HGET', results_of(node), ':turned') == token then
  if run.verdict then
    return reply('turned', unpublished.left_over(facts, false))
  end
  next_message.since = rec.since
  return reply('turned', rec.state == 'ready' and next_message or nothing())
end
-- include: claimed_record
pages.store_page(node, items, page_count, cursor, token)
end_claim(rec, node)
if run.verdict then
  local failure = abort.failure_of('orchestrator.errors.RunError', 'the run ended before the next page', node, rec.attempt)
  redis.call('HSET', FAILURES, node, failure)
  return reply('turned', announced(abort.conclude(node, rec, facts, failure, 'failed')))
end
save_ready(node, rec.generation)
local due = pages.next_due(node, facts)
if rec.throttled or due or rec.ends then
  local ready = record(node)
  ready.throttled, ready.ends = rec.throttled, rec.ends
  if due then
    ready.state, ready.due = 'parked', due
    redis.call('ZADD', TIMERS, due, RUN_ID .. '|' .. node)
    wake_leader(due)
    next_message = nothing()
  end
  save(node, ready)
end
if not continues then
  detach(facts)
end
touch()
return reply('turned', next_message)

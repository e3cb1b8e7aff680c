-- Callbacks: a node waits, behind an attempt, for somebody who has the text of its callback. The record keeps the secret of it, the
-- same in every attempt. What comes while an attempt runs, or waits for the next one, is kept beside the failures of the run.
local function kept_field(node) return ':kept|' .. node end

local function end_with(node, rec, facts, verb, text)
  if verb == 'fail' then
    return fail(node, rec, facts, text)
  end
  return succeed(node, rec, facts, text)
end

-- End a node with what was kept for it: no further attempt of it is made.
local function deliver(node, rec, facts)
  local kept = redis.call('HGET', FAILURES, kept_field(node))
  redis.call('HDEL', FAILURES, kept_field(node))
  rec.kept = nil
  local verb, text = string.match(kept, '^(%a+) (.*)$')
  return end_with(node, rec, facts, verb, text)
end

-- 'complete' with the output (JSON) or 'fail' with the failure (JSON); the secret; the generation of the node.
local function callback_arrives(node, verb, text, secret, generation)
  local rec, facts = record(node), plan_node(node)
  if not rec or rec.secret ~= secret or rec.kept or (rec.generation or 0) ~= tonumber(generation) then
    return {'stale'}
  end
  if rec.state == 'waiting' and not run.verdict then
    return reply('ended', announced(end_with(node, rec, facts, verb, text)))
  elseif rec.state == 'running' then
    redis.call('HSET', FAILURES, kept_field(node), verb .. ' ' .. text)
    rec.kept = true
    save(node, rec)
    return {'kept'}
  elseif (rec.state == 'parked' or rec.state == 'ready') and not run.verdict then
    redis.call('HSET', FAILURES, kept_field(node), verb .. ' ' .. text)
    wait_queue.leave(node, rec)
    redis.call('LREM', AGAIN, 0, node)
    rec.kept, rec.bucket, rec.due = true, nil, nil
    return reply('ended', announced(deliver(node, rec, facts)))
  end
  return {'stale'}
end

-- The timeout is a failed attempt: there may be another one, after the delay that the attempt has left. The node's deadline ends
-- the wait, too, also one without a timeout, which has left no delay; and no attempt follows that could not begin before it.
local function callback_expires(node, rec, facts)
  local is_late = rec.ends and rec.ends <= NOW
  local message = is_late and abort.late_message(facts)
    or string.format('its callback did not come within %g s', rec.lasts / 1000)
  local failure = abort.failure_of('orchestrator.errors.NodeTimeout', message, node, rec.attempt)
  local has_more = rec.attempt < facts.attempts and not is_late and (not rec.ends or NOW + rec.delay < rec.ends)
  if not has_more and not pauses.has_to_stand(facts) then
    return fail(node, rec, facts, failure)
  end
  redis.call('HSET', FAILURES, node, failure)
  finish.emit_node('over', run.flow, node, rec, rec.waits)
  leave(node, rec)
  if not has_more then
    note('timed-out', node, rec.attempt)
    pauses.stand(node, rec, facts)
    return maps.next_item(facts)
  end
  rec.state, rec.due = 'parked', NOW + rec.delay
  rec.lasts, rec.delay = nil, nil
  save(node, rec)
  note('timed-out', node, rec.attempt)
  redis.call('ZADD', TIMERS, rec.due, member_of(node))
  wake_leader(rec.due)
  touch()
  return maps.next_item(facts)
end

kinds.callback = {counts = true, is_asked = true, arrive = callback_arrives, expire = callback_expires}

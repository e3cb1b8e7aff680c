-- Record that an attempt failed: park the node until its next attempt, or end it for good.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 node, 3 token, 4 failure (JSON), 5 delay to the next attempt in ms, -1 if there is to be none,
--         6 '1' if Celery publishes what comes next (as commit.lua), 7 '' or, if the other side told the whole fleet to
--         wait for that delay, the most in ms that a node may be held back so in all; the attempt is then given back
-- Returns {'parked', what to publish...}, {'paused', what to publish...} of a node whose policy is to wait for somebody,
--         {'failed', what to publish...}, {'excused', what to publish...} in a step that goes on without it,
--         {'exhausted'} (held back for too long: nothing was written), {'fenced'} or {'unknown'}.
-- TTL     none while the run lives. An identical second call writes nothing and answers as the first, with what is still
--         ready and unclaimed; once the node was claimed again it is 'fenced'.
local node, token, failure, delay, follows = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6] == '1'
local most = tonumber(ARGV[7])
-- include: of_attempt

-- Hold the node back together with everybody who waits for its buckets; it keeps its place in their line. Where it has
-- a bucket of its key, the refusal was for that key: nobody else is held back. What is no rate, such as slots, does not stand still.
local function hold_back(rec, holder)
  local till = NOW_US + delay * 1000
  local frozen, keyed = {}, {}
  local function rate_of(name)
    local bucket = limits.read(LIMITS, name, NOW_US)
    return bucket and bucket.freeze and bucket or nil
  end
  for _, name in ipairs(wait_queue.buckets_of(node, rec)) do
    local bucket = rate_of(name)
    frozen[#frozen + 1] = bucket
    keyed[#keyed + 1] = limits.is_keyed(name) and bucket or nil
  end
  frozen = #keyed > 0 and keyed or frozen
  for _, name in ipairs(#keyed > 0 and rec.asked or {}) do
    frozen[#frozen + 1] = not limits.is_keyed(name) and rate_of(name) or nil
  end
  for _, bucket in ipairs(frozen) do
    bucket:freeze(till, rec.started * 1000)
  end
  rec.attempt, rec.throttled = rec.attempt - 1, (rec.throttled or 0) + delay
  note('throttled', node, rec.attempt + 1, of_attempt(string.format('%.0f', delay), holder, failure))
  rec.bucket = frozen[1] and frozen[1].name
  if rec.bucket then
    redis.call('ZADD', LIMITS .. ':line:' .. rec.bucket, rec.arrived or NOW_US, RUN_ID .. '|' .. node)
    redis.call('ZADD', LINES, 'LT', NOW, rec.bucket)
    wake_leader(NOW)
  end
end

-- include: count_attempt
-- include: node_record
if rec and rec.dropped == token then
  local left = (rec.outcome == 'parked' or rec.outcome == 'paused') and nothing() or unpublished.left_over(facts, follows and facts.kind == 'node')
  return reply(rec.outcome, left.kind == '' and maps.next_item(facts, follows) or left)
end
-- include: claimed_record
if most and (rec.throttled or 0) + delay > most then
  return {'exhausted'}
end
local is_in_time = not rec.ends or NOW + delay < rec.ends
local waits = delay >= 0 and is_in_time and (most or rec.attempt < facts.attempts) and (not run.verdict or facts.kind == 'compensation')
redis.call('HSET', FAILURES, node, failure)
local holder = rec.holder
end_claim(rec, node)
add_busy(rec)
count_attempt(waits and (most and 'throttled' or 'retried') or 'failed')
rec.lost, rec.dropped = nil, token
local stands = delay >= 0 and pauses.has_to_stand(facts)
if rec.kept and (waits or stands) then
  rec.outcome = 'parked'
  detach(facts)
  return reply('parked', announced(waiting.deliver(node, rec, facts)))
end
if waits then
  rec.state, rec.due, rec.outcome = 'parked', NOW + delay, 'parked'
  if most then
    hold_back(rec, holder)
  else
    rec.arrived = nil
    note('retrying', node, rec.attempt, of_attempt(string.format('%.0f', delay), holder, failure))
  end
  save(node, rec)
  if not rec.bucket then
    redis.call('ZADD', TIMERS, rec.due, RUN_ID .. '|' .. node)
    wake_leader(rec.due)
  end
  detach(facts)
  touch()
  return reply('parked', maps.next_item(facts, follows))
end
if stands then
  rec.outcome = 'paused'
  pauses.stand(node, rec, facts, of_attempt('', holder, failure))
  return reply('paused', maps.next_item(facts, follows))
end
local was_detached = run.detached == '1'
local excused = not run.verdict and facts.kind ~= 'compensation' and plan_step(facts.step).go_on
rec.outcome = excused and 'excused' or 'failed'
local work = abort.conclude(node, rec, facts, failure, 'failed', of_attempt('', holder, failure))
if work.kind == '' then
  work = maps.next_item(facts, follows)
end
return reply(rec.outcome, follows and celery_goes_on(facts, was_detached, work) and nothing() or announced(work))

-- End a claim whose attempt nobody will finish: its process died, its lease ran out, it was given back or hangs.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 node, 3 token, 4 failure (JSON) to record, 5 '1' if the attempt was past its deadline (a failed attempt),
--         6 delay to the next attempt in ms (0: due now)
-- Returns {'again', what to publish...}, {'parked', ...}, {'paused', ...}, {'ended', what to publish...}, {'fenced'} or {'unknown'}.
-- TTL     none while the run lives. An identical second call is 'fenced'. Begins with PEXPIRE: it passes in a full Redis.
local node, token, failure, timed_out, delay = ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1', tonumber(ARGV[6])
-- include: count_attempt
-- include: of_attempt
-- include: node_record
-- include: claimed_record
redis.call('PEXPIRE', HOLDERS .. ':' .. rec.holder, 86400000)
redis.call('HSET', FAILURES, node, failure)
local holder = rec.holder
end_claim(rec, node)
add_busy(rec)
rec.lost = not timed_out and true or nil
count_attempt(timed_out and 'timed_out' or 'lost')
local is_in_time = not rec.ends or NOW + delay < rec.ends
local is_tried_again = is_in_time and rec.attempt < facts.attempts and (not run.verdict or facts.kind == 'compensation')
local following = pauses.has_to_stand(facts) and 'it stands until the run is resumed' or 'no attempt follows'
if is_tried_again then
  following = string.format('attempt %d of %d follows', rec.attempt + 1, facts.attempts)
    .. (delay > 0 and string.format(' in %d ms', delay) or '')
end
note(timed_out and 'timed-out' or 'lost', node, rec.attempt, of_attempt(following, holder, failure))
detach(facts)
if rec.kept then
  return reply('ended', announced(waiting.deliver(node, rec, facts)))
end
if is_tried_again then
  touch()
  if delay > 0 then
    rec.state, rec.due = 'parked', NOW + delay
    save(node, rec)
    redis.call('ZADD', TIMERS, rec.due, RUN_ID .. '|' .. node)
    wake_leader(rec.due)
    return reply('parked', maps.next_item(facts))
  end
  rec.state, rec.since = 'ready', NOW
  save(node, rec)
  return reply('again', maps.repeated(node, facts))
end
if pauses.has_to_stand(facts) then
  pauses.stand(node, rec, facts)
  return reply('paused', maps.next_item(facts))
end
local state = timed_out and 'failed' or 'unknown'
finish.emit_node(state, run.flow, node, rec, nil, facts.undoes)
local work = announced(abort.conclude(node, rec, facts, failure, state))
return reply('ended', work.kind == '' and maps.next_item(facts) or work)

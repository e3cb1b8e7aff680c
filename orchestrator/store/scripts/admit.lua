-- Let a claimed attempt start whose buckets depend on its input: take a token of each, or stand in line.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 node, 3 token, 4 '1' if the caller may sleep for a token, 5 '1' if the caller asks for a map's next item itself,
--         6... buckets
-- Returns {'run', deadline in ms}, {'sleep', us}, {'no limit', bucket}, {'parked', what to publish...} (the attempt is given
--         back), {'ending', what to publish...} (no attempt starts any more, the node has ended), {'fenced'} or {'unknown'}.
-- TTL     none. An identical second call takes no token and answers as the first; once the node was claimed again it is
--         'fenced'. An attempt lost before this counts: the claim has counted it.
local node, token, may_sleep, goes_on = ARGV[2], ARGV[3], ARGV[4] == '1', ARGV[5] == '1'
local member = RUN_ID .. '|' .. node
-- include: node_record
if rec and rec.dropped == token then
  return reply(rec.outcome, rec.outcome == 'ending' and unpublished.left_over(facts, false) or maps.next_item(facts, goes_on))
end
-- include: claimed_record
if not rec.admits then
  return {'run', string.format('%.0f', rec.deadline)}
end

if run.verdict and facts.kind ~= 'compensation' then
  end_claim(rec, node)
  flush()
  wait_queue.leave(node, rec)
  rec.admits, rec.dropped, rec.outcome = nil, token, 'ending'
  rec.attempt = rec.attempt - 1
  rec.state = not abort.has_begun(node, rec) and 'skipped' or (rec.lost and 'unknown' or 'failed')
  rec.seq = next_seq()
  save(node, rec)
  redis.call('SREM', OPEN, node)
  note(rec.state, node, rec.attempt)
  return reply('ending', announced(abort.when_quiet()))
end

local names = {unpack(ARGV, 6)}
local asked = wait_queue.ask(names, member)
if asked.missing then
  return {'no limit', asked.missing}
end
if asked.wait > 0 and may_sleep and not asked.queued and asked.wait <= limits.SLEEP_US then
  return {'sleep', string.format('%.0f', asked.wait)}
end
local before = rec.buckets
rec.buckets = names
if asked.wait > 0 then
  end_claim(rec, node)
  rec.admits, rec.dropped, rec.outcome = nil, token, 'parked'
  rec.attempt = rec.attempt - 1
  if rec.kept then
    detach(facts)
    return reply('parked', announced(waiting.deliver(node, rec, facts)))
  end
  wait_queue.join(node, rec, asked, tonumber(rec.arrived))
else
  rec.admits, rec.lost = nil, nil
  rec.started, rec.deadline = NOW, math.min(NOW + facts.timeout_ms, rec.ends or math.huge)
  save(node, rec)
  wait_queue.take_tokens(asked, member, token, before or not may_sleep)
  local ends = math.min(rec.deadline, NOW + (facts.heartbeat_ms or math.huge))
  note_claim(rec.holder, node, token .. '|' .. string.format('%.0f', ends))
end
touch()
if rec.state == 'running' then
  wait_queue.forget_marks(before, member)  -- also those of another key: a key function may not be pure
  if facts.kind ~= 'item' then
    note('started', node, rec.attempt)
  end
  return {'run', string.format('%.0f', rec.deadline)}
end
detach(facts)
return reply('parked', maps.next_item(facts, goes_on))

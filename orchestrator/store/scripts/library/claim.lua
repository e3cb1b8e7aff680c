-- Give a node to one attempt: one holder, one token; take a token of each of its buckets; count the attempt. A function's
-- body: node (of a map: any item of it that is to be done) and token; epoch, holder, lease and arrived are the same for all
-- claims of a call.
-- Returns {'run', 'attempt generation scheduled index', item} (the item of a map, with its index; the number of the page to
-- be fetched, with its cursor as JSON; else ''; the instant of the tick that started the run in ms, or '', and with a
-- deadline how long the attempt may take in ms), the same with
-- 'admit' where admit.lua has to let it start, {'sleep', us, first arrival} (of a map 0 us: more items are to be looked at), or
-- {outcome}: 'unknown', 'old', 'done', 'held', 'full', 'not ready', 'ending', 'parked', 'no limit' and the bucket.
-- An identical second call (same token) answers 'run' again and takes no token.
local member = RUN_ID .. '|' .. node

local first = tonumber(arrived) or 0
local rec, facts = nil, nil

local function granted()
  is_granted = true
  local index = facts.kind == 'item' and index_of(node)
  local item = index and redis.call('HGET', RUN .. ':items:' .. base_of(node), index)
  if facts.paged then
    index, item = pages.next_page(node, facts)
  end
  local numbers = {rec.attempt, rec.generation or 0, run.scheduled or '', index or ''}
  if rec.ends then
    numbers[5] = string.format('%.0f', rec.deadline - NOW)
  end
  return {rec.admits and 'admit' or 'run', table.concat(numbers, ' '), item or ''}
end

if not load_run() then
  return {'unknown'}
end
if run.epoch ~= epoch then
  return {'old'}
end
facts = plan_node(node)
local is_pulled = facts and facts.kind == 'item'
if is_pulled then
  if run.verdict or run.position ~= facts.step then
    return {run.verdict and not is_ended() and 'ending' or 'done'}
  end
  -- Behind a commit that is no repeat, the token is new.
  local item = (commits == 0 or is_repeat) and maps.given_before(holder, token)
  if not item and is_held() then
    return {'paused'}
  end
  if not item and run.running >= plan_step(facts.step).width then
    return {'full'}
  end
  local has_more = false
  if item then
    node = item
  else
    node, has_more = maps.pull(node)
  end
  if not node then
    return has_more and {'sleep', '0', string.format('%.0f', first)} or {'done'}
  end
  member = RUN_ID .. '|' .. node
end
rec = record(node) or is_pulled and {state = 'ready', attempt = 0, since = NOW, generation = 0}
if not rec or not facts then
  return {is_ended() and 'done' or 'not ready'}
end
if rec.state == 'running' then
  return rec.token == token and granted() or {'held'}
end
if rec.state == 'waiting' then
  return {'held'}
end
if rec.state == 'paused' or is_held() and facts.kind ~= 'compensation' then
  return {'paused'}
end
if rec.state == 'pending' and not is_pulled then
  return {'not ready'}
end
if rec.state ~= 'ready' and rec.state ~= 'parked' and not is_pulled then
  return {'done'}
end
if run.verdict and facts.kind ~= 'compensation' then
  return {'ending'}
end
if rec.state == 'parked' and (not rec.bucket and rec.due > NOW) or rec.ends and rec.ends <= NOW then
  return {'not ready'}
end

-- The buckets: all of them or none. Those that depend on the input are asked by admit.lua, which lets the attempt start.
first = tonumber(rec.arrived) or (first > 0 and first) or NOW_US
local admits = facts.keyed and true or nil
if rec.state == 'parked' and wait_queue.has(rec, member) then
  return {'not ready'}
end
local is_limited = not admits and #facts.limits > 0
local asked = is_limited and wait_queue.ask(facts.limits, member) or {wait = 0}
if asked.missing then
  return {'no limit', asked.missing}
end
if asked.wait > 0 then
  if arrived == '' and not asked.queued and asked.wait <= limits.SLEEP_US then
    return {'sleep', string.format('%.0f', asked.wait), string.format('%.0f', first)}
  end
  wait_queue.join(node, rec, asked, first)
  if is_pulled then
    maps.take(node, commits > 0)
  end
  detach(facts)
  touch()
  return {'parked'}
end

local was_parked = rec.state == 'parked'
local before = rec
rec = cjson.decode(string.format(RUNNING, rec.attempt + 1, rec.generation or 0, string.format('%.0f', rec.since or NOW), instant,
  string.format('%.0f', math.min(NOW + facts.timeout_ms, before.ends or math.huge)), token, cjson.encode(holder)))
rec.throttled, rec.buckets, rec.admits, rec.lost = before.throttled, before.buckets, admits, admits and before.lost
rec.first, rec.busy, rec.secret, rec.kept, rec.ends = before.first, before.busy, before.secret, before.kept, before.ends
rec.fresh, rec.made = before.fresh, before.made  -- see children.lua
rec.arrived = #facts.limits > 0 and string.format('%.0f', first) or nil
rec.told = before.detail or before.told  -- for the attempt to go on from
save(node, rec)
-- Where heartbeats are asked for it ends earlier than the attempt, unless they move its end.
note_claim(holder, node, token .. '|' .. string.format('%.0f', math.min(rec.deadline, NOW + (facts.heartbeat_ms or math.huge))))
redis.call('ZADD', HOLDERS, 'NX', NOW + lease, holder)
if not admits and (is_limited or rec.buckets) then
  wait_queue.forget_marks(rec.buckets, member)
  wait_queue.take_tokens(asked, member, token, first < NOW_US)
end
if was_parked then
  redis.call('ZREM', TIMERS, member)
end
if run.status == 'pending' then
  set_status('running')
end
set_run({running = run.running + 1})
if is_pulled then
  maps.take(node, commits > 0)
elseif not admits and (rec.attempt > 1 or not facts.paged or pages.next_page(node, facts) == '0') then
  note('started', node, rec.attempt)
end
touch()
return granted()

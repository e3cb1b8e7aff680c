-- Gates: nodes that only wait, opened by the script that makes their position ready. They have neither attempt nor message.
-- What was sent for a signal that no gate waits for yet lies in the inbox, one hash of the run: 'first|<name>' and
-- 'next|<name>' number the entries of a name, 'value|<name>|<number>' is an entry, JSON behind '1' if it was checked against
-- the type and '0' if not, and 'key|<name>|<hash>' says that a key has counted.
local MOST_SENT = 100

local function sent(name)
  local first, behind = unpack(redis.call('HMGET', INBOX, 'first|' .. name, 'next|' .. name))
  return tonumber(first or 0), tonumber(behind or 0)
end

local function entry_of(name, number) return 'value|' .. name .. '|' .. string.format('%.0f', number) end

-- The oldest entry of a name, its number, and how many numbers there are from it on.
local function oldest(name)
  local first, behind = sent(name)
  for number = first, behind - 1 do
    local entry = redis.call('HGET', INBOX, entry_of(name, number))
    if entry then
      return entry, number, behind - number
    end
  end
  return nil, behind, 0
end

local function drop(name, number)
  redis.call('HDEL', INBOX, entry_of(name, number))
  local first = sent(name)
  if number == first then
    redis.call('HSET', INBOX, 'first|' .. name, string.format('%.0f', number + 1))
  end
end

-- Take the oldest entry of a name, if it was checked.
local function take(name)
  local entry, number = oldest(name)
  if not entry or string.sub(entry, 1, 1) ~= '1' then
    return nil
  end
  drop(name, number)
  return string.sub(entry, 2)
end

-- The number of an entry that a gate could have if a worker judged it.
local function unjudged(name)
  local entry, number = oldest(name)
  return entry and string.sub(entry, 1, 1) == '0' and number
end

-- The run ends: what no gate took is noted.
local function close_inbox()
  for _, name in ipairs(plan_fact('signals')) do
    local _, _, count = oldest(name)
    if count > 0 then
      note('signal-unused', '', 0, string.format('%s (%d)', name, count))
    end
  end
end

-- The gate of a signal that waits longest, and whether the run may still come to one.
local function find_gate(signal)
  local gate, since, is_ahead = nil, nil, false
  for _, each in ipairs(signal.gates) do
    local rec = record(each[1])
    if rec and rec.state == 'waiting' and (not since or rec.since < since) then
      gate, since = each[1], rec.since
    end
    is_ahead = is_ahead or each[2] == run.position and (not rec or rec.state == 'pending' or rec.state == 'parked')
  end
  for _, position in ipairs(signal.before) do
    is_ahead = is_ahead or position == run.position
  end
  return gate, is_ahead
end

-- Give a gate what lies in the inbox for it.
local function pour(name, signal)
  local work = nothing()
  while true do
    local gate = find_gate(signal)
    local output = gate and take(name)
    if not output then
      return work
    end
    local more = succeed(gate, record(gate), plan_node(gate), output)
    work = more.kind ~= '' and more or work
  end
end

-- A value was sent, or judged: 'send', the value, '1' if it was checked, hash of its key or ''; or 'judge', '1' if it fits or
-- '0', the value or why it does not, its number.
local function signal_arrives(name, verb, value, flag, more)
  local signal = plan_fact('signal:' .. name)
  if verb == 'judge' then
    local entry = redis.call('HGET', INBOX, entry_of(name, more))
    if not entry or string.sub(entry, 1, 1) == '1' then
      return {'again'}
    elseif flag == '1' then
      redis.call('HSET', INBOX, entry_of(name, more), '1' .. value)
    else
      drop(name, tonumber(more))
      note('signal-refused', '', 0, name .. ': ' .. value)
    end
    return reply('judged', run.verdict and nothing() or announced(pour(name, signal)))
  end
  local key = more ~= '' and 'key|' .. name .. '|' .. more
  if key and redis.call('HEXISTS', INBOX, key) == 1 then
    return {'again'}
  elseif run.verdict or is_ended() then
    return {'ending'}
  end
  local gate, is_ahead = find_gate(signal)
  local _, first, count = oldest(name)
  if not gate and not is_ahead then
    return {'no gate'}
  elseif count >= MOST_SENT then
    return {'full'}
  end
  if key then
    redis.call('HSET', INBOX, key, '1')
  end
  if gate and flag == '1' and count == 0 then
    return reply('taken', announced(succeed(gate, record(gate), plan_node(gate), value)))
  end
  redis.call('HSET', INBOX, entry_of(name, first + count), flag .. value, 'first|' .. name, string.format('%.0f', first),
    'next|' .. name, string.format('%.0f', first + count + 1))
  note('signal-kept', '', 0, name)
  return {'kept'}
end

kinds.signal = {
  is_asked = true,
  arrive = signal_arrives,
  open = function(_, _, facts) return take(facts.gate.of) end,
  expire = function(node, rec, facts)
    if facts.gate.default then
      return succeed(node, rec, facts, facts.gate.default)
    end
    return timed_out(node, rec, facts, 'signal ' .. facts.gate.of)
  end,
}

local function is_one_of(names, name)
  for _, each in ipairs(names) do
    if each == name then
      return true
    end
  end
end

-- A vote: 'approve' or 'reject', and the vote as JSON, {by, reason}.
local function vote_arrives(node, verb, text)
  local rec, facts, vote = record(node), plan_node(node), cjson.decode(text)
  if not rec or rec.state ~= 'waiting' or run.verdict then
    return {run.verdict and 'ending' or 'not open'}
  elseif facts.gate.approvers and not is_one_of(facts.gate.approvers, vote.by) then
    return {'no approver'}
  end
  rec.votes = rec.votes or {}
  for _, each in ipairs(rec.votes) do
    if each.by == vote.by then
      return {'voted'}
    end
  end
  if verb == 'reject' then
    local message = vote.by .. ' rejected it' .. (vote.reason ~= '' and ': ' .. vote.reason or '')
    return reply('ended', announced(fail(node, rec, facts, abort.failure_of('orchestrator.errors.Rejected', message, node))))
  end
  vote.at = NOW
  rec.votes[#rec.votes + 1] = vote
  if #rec.votes >= facts.gate.quorum then
    local output = cjson.encode({approved = true, votes = rec.votes})
    rec.votes = nil
    return reply('ended', announced(succeed(node, rec, facts, output)))
  end
  save(node, rec)
  flush()
  note('approved', node, 0, vote.by)
  return {'counted'}
end

kinds.approval = {
  is_asked = true,
  arrive = vote_arrives,
  expire = function(node, rec, facts) return timed_out(node, rec, facts, 'the approval') end,
}

-- Of `sleep` its time, of `sleep_until` the instant that an attempt has computed.
kinds.sleep = {expire = function(node, rec, facts) return succeed(node, rec, facts, 'null') end}

-- Commit the last node of a child, which ends the child, let the node of its parent that waits for it succeed with the same
-- output, and claim the node behind that: all of it in one step, where nothing is unusual. It writes what commit_and_claim.lua,
-- wake.lua and a claim would, one after the other.
-- KEYS    as keys.lua, of the child; 17-21 run, nodes, outputs, history and plan of its parent
-- ARGV    What the plans and the process say: node, its output key, its position; of the parent the node that waits, its output
--         key and position, the node behind it, its position and timeout in ms; holder of the claims. Then the child's id, the
--         token of its node, the output (JSON), its epoch; the parent's id and epoch, the token of the claim, how many output keys
--         of the parent to send along (reads), and those.
-- Returns nothing, and nothing is done, if anything is unusual of either run; else the claim, as commit_and_claim.lua answers it.
-- TTL     none: a child is kept as long as its root. An identical second call answers the claim again while it is held, and
--         nothing afterwards, when a commit of the same token says 'stored'.
-- include: keys
local node, key, position, flow_node, flow_key, flow_position, follower, behind, timeout, holder, RUN_ID, token, output, epoch, parent,
  flow_epoch, next_token, reads = unpack(ARGV, 1, 18)
local READS_AT = 18
local FLOW_RUN, FLOW_NODES, FLOW_OUTPUTS, FLOW_HISTORY, FLOW_PLAN = unpack(KEYS, 17, 21)

local function granted(scheduled)
  local OUTPUTS, answer = FLOW_OUTPUTS, '1 0 ' .. (scheduled or '') .. ' '
  -- include: answer_values
end

-- What is asked of a run that stands at a position of one node, in its first epoch; nothing of any other.
local function read_run(RUN, PLAN, epoch, position, more)
  repeat
    -- include: load_run seq open won
    if open ~= '1' or won ~= '0' or epoch ~= '1' and string.sub(epoch, -6) ~= '000001' then
      break
    end
    return running, scheduled, history_limit, seq, unpack(values, 11, 10 + #more)
  until true
end

local text = redis.call('HGET', NODES, node)
local flow_text, claimed = unpack(redis.call('HMGET', FLOW_NODES, flow_node, follower))
if text and string.find(text, '"stored":"' .. token .. '"', 1, true) then
  if claimed and string.find(claimed, '"token":"' .. next_token .. '"', 1, true) then
    return granted(redis.call('HGET', FLOW_RUN, 'scheduled'))
  end
  return
end
-- include: fence
local running, _, history_limit, seq, created, flow, deadline, own_parent, own_node, root =
  read_run(RUN, PLAN, epoch, position, {'created', 'flow', 'deadline', 'parent', 'parent_node', 'root'})
local _, scheduled, flow_limit, flow_seq, flow_name = read_run(FLOW_RUN, FLOW_PLAN, flow_epoch, flow_position, {'flow'})
if not rec or rec.holder ~= holder or not running or own_parent ~= parent or own_node ~= flow_node or not flow_seq or not flow_text
  or claimed then
  return
end
local flow_rec = cjson.decode(flow_text)
if flow_rec.state ~= 'waiting' or flow_rec.child ~= RUN_ID or flow_rec.attempt ~= 1 or flow_rec.asked or flow_rec.late
  or flow_rec.ends or #output > flow_rec.most then
  return
end
if root ~= parent then  -- one that was abandoned waits for nobody
  local status = redis.call('HGET', string.sub(RUN, 1, -#RUN_ID - 1) .. root, 'status')
  if status ~= 'running' then
    return
  end
end

-- include: instant
-- include: records
-- include: emit
local function noted(HISTORY, history_limit)
  -- include: note
  return note
end
local function emit_end(RUN_ID)
  -- include: emit_node
  emit_node('succeeded', flow_name, flow_node, flow_rec, 'child')
end

local seq_now, next_deadline = seq + 1, string.format('%d', NOW + timeout)
-- include: succeed
redis.call('HSET', OUTPUTS, key, output)
redis.call('HSET', NODES, node, cjson.encode(rec))
redis.call('HSET', RUN, 'running', running - 1, 'seq', seq_now, 'open', '0', 'won', '1', 'finished', instant, 'status', 'succeeded')
local open_claims, note = HOLDERS .. ':' .. holder, noted(HISTORY, history_limit)
redis.call('HSET', open_claims, parent .. '|' .. follower, next_token .. '|' .. next_deadline)
redis.call('HDEL', open_claims, RUN_ID .. '|' .. node)
note('succeeded', node, '1')
local before, after = 'open', 'succeeded'
-- include: family
-- include: index
-- include: end_run

emit_end(parent)
flow_rec.state, flow_rec.seq, flow_rec.ended, flow_rec.waits, flow_rec.due = 'succeeded', flow_seq + 1, NOW, nil, nil
redis.call('HSET', FLOW_OUTPUTS, flow_key, output)
redis.call('HSET', FLOW_NODES, flow_node, cjson.encode(flow_rec), follower, string.format(RUNNING, '1', '0', instant, instant,
  next_deadline, next_token, cjson.encode(holder)))
-- Its place among those that run is the follower's now.
redis.call('HSET', FLOW_RUN, 'seq', flow_seq + 1, 'position', behind, 'announced', behind, 'detached', '0')
redis.call('ZREM', TIMERS, parent .. '|' .. flow_node)
redis.call('ZADD', LIVE, NOW + 1000, parent)
noted(FLOW_HISTORY, flow_limit)('>', flow_node, '1', follower)
return granted(scheduled)

-- The pages of a paginated node and where it stands, in one hash, which a retry and a resume find as they were.
-- run:<id>:results:<node> has the items of each page by its number and: ':page' number of the next page, ':cursor' its
-- cursor (JSON), after the last page the last one there was, ':base' version of the source's cursor at the first page,
-- ':total' items so far, ':turned' token that stored the last page. Of a node that repeats the pages are its iterations: an
-- output each, which is the next one's input, so that there is no cursor; of flow nodes it is the output of which `until` is to be
-- asked, behind a '!'.

-- Version and cursor (JSON) at which the last successful run of the flow left a source.
local function cursor_of(source)
  return string.match(redis.call('HGET', CURSORS, run.flow .. '|' .. source) or '0 null', '^(%d+) (.*)$')
end

-- The run has succeeded: its sources are left where it ended, but for those that were moved since it began.
local function move_cursors()
  for _, entry in ipairs(plan_fact('pages') or {}) do
    local node, source = entry[1], entry[2]
    local rec = source ~= '' and record(node)
    if rec and rec.state == 'succeeded' then
      local version, cursor = cursor_of(source)
      local base, ended = unpack(redis.call('HMGET', results_of(node), ':base', ':cursor'))
      if version ~= base then
        note('cursor-kept', node, 0, source)
      elseif cursor ~= ended then
        redis.call('HSET', CURSORS, run.flow .. '|' .. source, string.format('%.0f', version + 1) .. ' ' .. ended)
        note('cursor-moved', node, 0, source)
      end
    end
  end
end

-- Number and cursor of the page to be fetched; before the first one, where the source was left is taken down.
local function next_page(node, facts)
  local page, cursor = unpack(redis.call('HMGET', results_of(node), ':page', ':cursor'))
  if not page then
    local version, left = '0', 'null'
    if facts.source ~= '' then
      version, left = cursor_of(facts.source)
    end
    page, cursor = '0', left
    redis.call('HSET', results_of(node), ':page', page, ':cursor', cursor, ':base', version)
  elseif facts.repeats and page ~= '0' then
    cursor = redis.call('HGET', results_of(node), string.format('%.0f', page - 1))
  end
  local output = facts.child and children.unjudged(node)
  return page, output and '!' .. output or cursor
end

local function store_page(node, items, count, cursor, token)
  local key = results_of(node)
  local page, before, total = unpack(redis.call('HMGET', key, ':page', ':cursor', ':total'))
  redis.call('HSET', key, page, items, ':page', string.format('%.0f', page + 1), ':turned', token,
    ':cursor', cursor == 'null' and before or cursor, ':total', string.format('%.0f', (total or 0) + count))
  redis.call('HDEL', FAILURES, node)
  if plan_node(node).child then
    redis.call('HDEL', children.LAST, node .. '|')
  end
  note(plan_node(node).repeats and 'iteration' or 'page', node, record(node).attempt, page)
end

-- From when on a node may go on behind a stored part: what asks for one iteration too many is not held back to fail.
local function next_due(node, facts)
  local every, most = unpack(facts.repeats or {0, 0})
  return every > 0 and tonumber(redis.call('HGET', results_of(node), ':page')) < most and NOW + every or nil
end

-- What is stored as the output once the `last` part is there: pages are read together when it is read.
local function whole_output(node, facts, last)
  if facts.repeats then
    return last
  end
  return '#' .. node .. '|' .. table.concat(redis.call('HMGET', results_of(node), ':page', ':total', ':cursor'), '|')
end

return {move_cursors = move_cursors, next_page = next_page, store_page = store_page, next_due = next_due,
  whole_output = whole_output}

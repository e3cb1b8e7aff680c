-- What others are told of a run: monitors, who waits for it, workers; and what is kept of it when it ends.

-- include: emit
-- include: push

local function own_keys()
  local keys = {RUN, NODES, OUTPUTS, FAILURES, HISTORY, RUN .. ':history', SAGA, OPEN, AGAIN, RUN .. ':order', RUN .. ':listed'}
  for _, node in ipairs(plan_fact('maps') or {}) do
    keys[#keys + 1] = results_of(node)
    keys[#keys + 1] = RUN .. ':items:' .. node
  end
  for _, entry in ipairs(plan_fact('pages') or {}) do
    keys[#keys + 1] = results_of(entry[1])
  end
  return keys
end

local function finish(after)
  is_touched = false
  set_run({finished = NOW})
  set_status(after)
  if after == 'succeeded' and #(plan_fact('pages') or {}) > 0 then
    pages.move_cursors()
  end
  local own_keys, flow, created, retention, idempotency, deadline, indexes = own_keys(), run.flow, run.created, run.retention,
    run.idem, run.deadline, run.indexes
  -- include: end_run
end

return {emit = emit, own_keys = own_keys, finish = finish, push = push}

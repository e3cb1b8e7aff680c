-- Answer, once, the nodes of a position (or of the saga) that nobody has published yet.
-- needs: run.lua
-- KEYS    as run.lua
-- ARGV    2 epoch, 3 position, or 'saga'
-- Returns {'announced', what to publish...}, or {'nothing'}, or {'unknown'}.
-- TTL     none while the run lives. An identical second call answers 'nothing'.
local epoch, position = ARGV[2], ARGV[3]
if not load_run() then
  return {'unknown'}
end
if run.epoch ~= epoch or is_ended() then
  return {'nothing'}
end
if position == 'saga' then
  if not run.saga or run.saga == '' or run.running > 0 or run.announced == run.saga_at then
    return {'nothing'}
  end
  return reply('announced', announced(saga_work(cjson.decode(run.saga))))
end
if run.verdict or run.position ~= tonumber(position) or run.announced == run.position then
  return {'nothing'}
end
local names = {}
for _, name in ipairs(plan_step(run.position).nodes) do
  local rec = record(name)
  if rec and rec.state == 'ready' then
    names[#names + 1] = name
  end
end
return reply('announced', announced({kind = 'step', position = run.position, names = names}))

-- Do the next portion of a transition that touches more records than one script may.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    none but the run id
-- Returns {'gone on', what to publish...}, of kind 'more' while another portion is left, {'nothing'} if none was, {'gone'} if
--         the records of the nodes are, or {'unknown'}.
-- TTL     none while the run lives. A second call does the portion behind; once none is left it writes nothing. Begins with
--         PERSIST: it passes in a full Redis, for what it ends may be what fills it.
if not load_run() then
  return {'unknown'}
end
local kind, cursor = portions.unfinished()
if not kind then
  return {'nothing'}
end
if redis.call('EXISTS', NODES) == 0 then
  return {'gone'}
end
redis.call('PERSIST', RUN)
return reply('gone on', announced(portions.go_on(kind, cursor)))

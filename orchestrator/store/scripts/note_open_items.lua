-- Note again which items of a map have begun and not ended, and which of those are to be repeated.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2... items that have a record, at most 500
-- Returns {'noted'} or {'unknown'}.
-- TTL     none. A second call notes the same.
if not load_run() then
  return {'unknown'}
end
for number = 2, #ARGV do
  local rec = record(ARGV[number])
  if rec and (rec.state == 'ready' or rec.state == 'running' or rec.state == 'parked' or rec.state == 'waiting') then
    redis.call('SADD', OPEN, ARGV[number])
  end
end
touch()
return {'noted'}

-- Something has come from outside for a node that waits: end the node exactly as a commit or a fail would, once; or keep
-- what has come for later.
-- needs: transition
-- KEYS    as transition.lua
-- ARGV    2 kind of what waits, see waiting.lua; 3 the node, or what that kind has in its place; the others are the kind's:
--         'signal'    3 its name, 4 'send', 5 value (JSON), 6 '1' if it was checked against its type, 7 hash of its key or '';
--                     or 4 'judge', 5 value (JSON) or why it does not fit, 6 '1' if it fits, 7 its number in the inbox
--         'approval'  3 the node, 4 'approve' or 'reject', 5 the vote (JSON: by, reason)
--         'callback'  3 the node, 4 'complete' or 'fail', 5 output or failure (JSON), 6 its secret, 7 generation of the node
-- Returns {outcome, what to publish...} or {'unknown'}. Of a signal: 'taken' by a gate, 'kept' in the inbox, 'again' (its key has
--         counted, or it was judged before), 'no gate' (none waits and none will), 'full' (the inbox), 'ending', 'judged'. Of
--         a vote: 'ended', 'counted', 'voted' (this name has), 'no approver', 'not open', 'ending'. Of a callback: 'ended',
--         'kept' while an attempt runs, 'stale'.
-- TTL     none while the run lives. Begins with HSET: a full Redis refuses it. An identical second call has no second effect:
--         a signal with a key is 'again', a vote 'voted' or 'not open'; a signal without a key is another signal.
if not load_run() then
  return {'unknown'}
end
return waiting.kinds[ARGV[2]].arrive(unpack(ARGV, 3))

-- Tell hooks and monitors of a node that waits for something outside, or that ends in no process of an attempt: 'waits', the
-- state that it ends in, or 'over' if it waits no more and an attempt follows. A stream of its own: a reader of runs takes every
-- event for one. Uses EVENTS and RUN_ID.
local function emit_node(event, flow, node, rec, waits, undoes)
  redis.call('XADD', EVENTS .. ':nodes', 'MAXLEN', '~', '10000', '*', 'event', event, 'run', RUN_ID, 'flow', flow, 'node', node,
    'attempt', string.format('%d', rec.attempt), 'since', waits and string.format('%.0f', rec.since) or '', 'waits', waits or '',
    'undoes', undoes or '')
end

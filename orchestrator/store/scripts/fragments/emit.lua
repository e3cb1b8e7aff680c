-- Tell monitors of the start or the end of the run. Uses EVENTS and RUN_ID.
local function emit(event, flow, detail)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', '10000', '*', 'event', event, 'run', RUN_ID, 'flow', flow, 'detail', detail or '')
end

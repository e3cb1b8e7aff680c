-- The keys of a run and of everything that a run moves in, see keys.py, Keys.of_run. A fast path needs the first seven.
-- Three kinds of keys are made from one of them because their names stand in stored state: the lines of a bucket
-- (LIMITS:line:<bucket> and so on), the claims of a holder (HOLDERS:<id>) and what a map or a saga has of a run (RUN:...).
local RUN, NODES, OUTPUTS, HISTORY, PLAN, LIVE, HOLDERS, FAILURES, TIMERS, EXPIRING, EVENTS, INDEX, LIMITS, LINES, DONE, CURSORS =
  unpack(KEYS, 1, 16)

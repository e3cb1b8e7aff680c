-- What the names of a run's groups in the indexes begin with: children are counted and listed apart. Uses RUN_ID.
local FAMILY = string.sub(RUN_ID, 14, 15) == '-8' and 'child_' or ''  -- as keys.py makes ids

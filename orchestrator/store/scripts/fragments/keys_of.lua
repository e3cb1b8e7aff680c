-- Keys that any run may have, by the key of its record.
local function keys_of(run_key)
  local keys = {run_key}
  for _, part in ipairs({'nodes', 'outputs', 'failures', 'told', 'history', 'saga', 'open', 'again', 'order', 'listed', 'forks'}) do
    keys[#keys + 1] = run_key .. ':' .. part
  end
  return keys
end

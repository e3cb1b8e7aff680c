-- What the history keeps of an attempt that failed: the ms to the next one, its process, and its error, cut.
local function of_attempt(delay, holder, failure)
  local error = cjson.decode(failure)
  return delay .. '|' .. holder .. '|' .. string.sub(error.type .. ': ' .. error.message, 1, 130)
end

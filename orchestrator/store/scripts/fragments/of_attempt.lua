-- What the history keeps of an attempt that failed: the ms to the next one, or what follows, its process, and its error, cut.
local function of_attempt(following, holder, failure)
  local error = cjson.decode(failure)
  return following .. '|' .. holder .. '|' .. string.sub(error.type .. ': ' .. error.message, 1, 130)
end

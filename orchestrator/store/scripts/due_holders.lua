-- Name processes whose lease has ended, or that hold a claim past its end.
-- KEYS    1 holders
-- ARGV    1 rank of the first one to look at, 2 how many, 3 and 4 time in ms past its end at which a claim is named, and the
--         same where nothing can interrupt a function, 5 how the names of those end
-- Returns {how many were looked at, processes, each with '1' if its lease has ended, else '0'}.
-- TTL     none. A second call answers the same: it writes nothing.
-- include: instant
local first, count, margin, inline_margin, inline = unpack(ARGV, 1, 5)
local found = redis.call('ZRANGE', KEYS[1], first, first + count - 1, 'WITHSCORES')
local answer = {#found / 2}
for index = 1, #found, 2 do
  local holder, is_over = found[index], tonumber(found[index + 1]) < NOW
  local late = NOW - (string.sub(holder, -#inline) == inline and inline_margin or margin)
  local is_late = false
  for _, claim in ipairs(is_over and {} or redis.call('HVALS', KEYS[1] .. ':' .. holder)) do
    is_late = is_late or (tonumber(string.match(claim, '|(%d+)$')) or 0) < late
  end
  if is_over or is_late then
    answer[#answer + 1], answer[#answer + 2] = holder, is_over and '1' or '0'
  end
end
return answer

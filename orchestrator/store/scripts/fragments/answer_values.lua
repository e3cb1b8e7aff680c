-- Answer the values of the output keys that are asked for: a line with their lengths, then all of them, which a client reads
-- faster than a list. Uses the arguments and `answer`, which stands in front.
if reads == '0' then
  return answer
end
local values, sizes = redis.call('HMGET', OUTPUTS, unpack(ARGV, READS_AT + 1, READS_AT + reads)), {}
for number, value in ipairs(values) do
  sizes[number] = value and #value or -1
  values[number] = value or ''
end
return answer .. '\n' .. table.concat(sizes, ' ') .. '\n' .. table.concat(values)
